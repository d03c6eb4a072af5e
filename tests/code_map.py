"""`make docs`: writes the code map into spos_cli/README.md, from the first line of each file's docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "spos_cli"
PAGE = PACKAGE / "README.md"
# Files of the package itself, then folders from the top of the import order to its bottom.
ORDER = ("", "stages", "doctor", "report", "run", "export", "official", "search", "engine", "models", "data", "space")
LAST = ("config", "files")
HEADING, AFTER = "## Code map\n", "\nThe recipes are"


def code_map() -> str:
    """Return a line for each folder and each file, with what it is for."""
    folders = [*ORDER, *LAST]
    found = {path.parent.relative_to(PACKAGE).as_posix().strip(".") for path in PACKAGE.rglob("__init__.py")}
    assert found <= set(folders), f"not in the order of the map: {sorted(found - set(folders))}"
    lines = []
    for name in folders:
        paths = [path for path in sorted((PACKAGE / name).glob("*.py")) if path.name != "__init__.py"]
        if name and paths:
            lines.append(_line("", f"{name}/", PACKAGE / name / "__init__.py"))
        lines += [_line("  " if name else "", path.name, path) for path in paths]
    return "\n".join(lines) + "\n"


def _line(indent: str, name: str, path: Path) -> str:
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]
    return f"{indent}{name:<{22 - len(indent)}} {first.rstrip('.')}"


def write(text: str) -> str:
    """Return the page with its map replaced by that of the package."""
    pattern = re.escape(HEADING) + ".*?" + re.escape(AFTER)
    return re.sub(pattern, lambda _: f"{HEADING}\n```text\n{code_map()}```\n{AFTER}", text, flags=re.DOTALL)


def main() -> None:
    """Write the map into the page."""
    PAGE.write_text(write(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
