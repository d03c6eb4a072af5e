"""The HTML elements of the report, escaped, and numbers as text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

BEFORE_PERCENT = re.compile(r"(?<=\d) (?=%)")  # becomes a space at which no line is broken


class Html(str):
    """Text that is HTML already."""


Content = str | int | Html | Iterable["Content"] | None


def element(name: str, *content: Content, **attributes: str | int | None) -> Html:
    """Return `<name ...>content</name>`, with everything escaped that is not `Html`.

    Attributes that are None are left out; `class_` stands for `class`, and `data_x` for `data-x`.
    """
    pairs = (
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{''.join(pairs)}>{escape(content)}</{name}>")


def escape(content: Content) -> Html:
    """Return content as HTML: text is escaped, the items of an iterable follow each other."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, str | int):
        return Html(BEFORE_PERCENT.sub("\u00a0", html.escape(str(content))))
    return Html("".join(map(escape, content)))


def section(name: str, title: str, *content: Content) -> Html:
    """Return a section of the page."""
    return element("section", element("h2", title), *content, id=name)


def paragraph(*content: Content) -> Html:
    """Return a paragraph of explanation."""
    return element("p", *content, class_="text")


def chart(name: str, label: str, height: str = "") -> Html:
    """Return the empty element in which `page.js` draws a chart."""
    return element("div", id=name, class_=f"chart {height}".strip(), role="img", aria_label=label)


def strip(line: int) -> Html:
    """Return the empty element in which `page.js` draws the architecture of a journal line as a strip of blocks."""
    return element("span", data_line=line, class_="strip")


def picture(source: str, text: str) -> Html:
    """Return an image.

    Args:
        source: a data URI.
        text: what it shows, in words.
    """
    return Html(f'<img src="{html.escape(source)}" alt="{html.escape(text)}">')


def tile(title: str, value: str, note: str) -> Html:
    """Return one number with its title and a note."""
    return element("div", element("dt", title), element("dd", value), element("dd", note, class_="note"))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Content]], marked: int | None = None, *, sortable: bool = False
) -> Html:
    """Return a table, which scrolls by itself on a narrow screen.

    Args:
        columns: titles; a column is aligned left if its title ends in a colon.
        marked: the index of a row that stands out.
        sortable: `page.js` makes buttons of the titles. Such a table also scrolls by itself if it is long.
    """
    left = [column.endswith(":") for column in columns]

    def cells(name: str, contents: Iterable[Content]) -> list[Html]:
        aligned = zip(contents, left, strict=True)
        return [element(name, content, class_="left" if is_left else None) for content, is_left in aligned]

    head = element("thead", element("tr", cells("th", [column.rstrip(":") for column in columns])))
    body = [
        element("tr", cells("td", row), class_="marked" if number == marked else None)
        for number, row in enumerate(rows)
    ]
    content = element("table", head, element("tbody", body), class_="sortable" if sortable else None)
    return element("div", content, class_="scroll long" if sortable else "scroll")


def format_percent(share: float, digits: int = 2) -> str:
    """Return a share as `81.25 %`."""
    return f"{100 * share:.{digits}f} %"


def format_range(low: float, high: float) -> str:
    """Return two shares as `76.9–84.5 %`, or as one where they are equal."""
    return f"{100 * low:.1f}–{100 * high:.1f} %" if low < high else format_percent(low, 1)


def format_signed(number: float) -> str:
    """Return a number with two digits and a true minus sign."""
    return f"{number:.2f}".replace("-", "−")


def format_count(number: int, noun: str) -> str:
    """Return `1 candidate`, `1,000 candidates`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_size(number: int) -> str:
    """Return the size of a space: `65,536`, and from a million on `1.1 × 10¹²`."""
    if number < 10**6:
        return f"{number:,}"
    # A float has no more than 308 digits.
    mantissa, exponent = f"{number:.1e}".split("e") if number < 10**300 else ("1", str(len(str(number)) - 1))
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def format_wall_time(seconds: float | None, complete: bool) -> str:
    """Return `4.2 s`, `3:05 min`, `2:07 h`, or `at least 4.2 s` if not all of the time is known."""
    if seconds is None:
        return "not recorded"
    if seconds < 60:
        text = f"{seconds:.1f} s"
    elif seconds < 3600:
        text = f"{int(seconds // 60)}:{int(seconds % 60):02} min"
    else:
        text = f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02} h"
    return text if complete else f"at least {text}"
