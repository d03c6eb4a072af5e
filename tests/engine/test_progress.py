"""What a terminal shows of long work, on an emulated screen."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from spos_cli.engine import progress
from spos_cli.engine.history import History
from spos_cli.engine.progress import Curve, Task, render_lines, render_sparkline, track

pyte = pytest.importorskip("pyte")


class Terminal:
    """A screen that becomes wider or narrower; as one that breaks lines up (most do), or one that cuts them off."""

    def __init__(self, columns: int, breaks_up: bool = False) -> None:
        self.file, self.breaks_up = io.StringIO(), breaks_up
        self.console = Console(
            file=self.file, force_terminal=True, width=columns, height=24, highlight=False, legacy_windows=False
        )
        self._new_screen(columns)

    def _new_screen(self, columns: int) -> None:
        self.screen = pyte.HistoryScreen(columns, 24, history=100)
        self.screen.set_mode(pyte.modes.LNM)  # a terminal's driver ends lines so
        self.stream = pyte.Stream(self.screen)

    def feed(self) -> None:
        self.stream.feed(self.file.getvalue())
        self.file.seek(0)
        self.file.truncate()

    def resize(self, columns: int) -> None:
        self.feed()
        if self.breaks_up:
            rows = [line.rstrip() for line in self.screen.display[: self.screen.cursor.y + 1]]
            self._new_screen(columns)
            broken = [row[i : i + columns] for row in rows for i in range(0, max(len(row), 1), columns)]
            self.stream.feed("\n".join(broken))
        else:
            self.screen.resize(24, columns)
        self.console.width = columns

    @property
    def lines(self) -> list[str]:
        self.feed()
        return [line.rstrip() for line in self.screen.display if line.strip()]

    @property
    def everything(self) -> list[str]:
        """With what has scrolled away."""
        below = self.lines
        above = ("".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top)
        return [line for line in map(str.rstrip, above) if line] + below


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = Terminal(80)
    monkeypatch.setattr(progress, "console", shown.console)
    return shown


def search_task() -> Task:
    task = Task("search", 1050, "candidates", 0)
    task.phase, task.done, task.under_way = "generation 7 of 20", 384, 2.5
    task._begin -= 100
    arch = "2,1,0,1,2,0,2,0,2,0,2,3,0,0,0,0,3,2,3,3"
    task.rows = [
        ("best", ("72.45%", "318.2M FLOPs", arch)),
        ("scores", (Curve([i % 17 + i / 9 for i in range(384)]), "61.0% to 72.5%")),
        ("accepted", ("100% of random draws", "61% of mutations", "40% of crossovers")),
    ]
    return task


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("width", [*range(1, 30), 40, 60, 79, 80, 81, 200])
def test_no_line_is_wider_than_the_terminal(width: int, ascii_only: bool) -> None:
    lines = render_lines(search_task(), width, ascii_only)
    assert len(lines) == 4
    assert all(line.cell_len <= width for line in lines)
    if ascii_only:
        assert "".join(line.plain for line in lines).isascii()


def test_a_search_in_80_columns_and_in_40() -> None:
    head, best, scores, accepted = (line.plain for line in render_lines(search_task(), 80))
    assert head.startswith("search    generation 7 of 20  ━")
    assert head.endswith("─  384/1,050 candidates  3.9/s  2:52 left")
    assert best == "best      72.45%  318.2M FLOPs  2,1,0,1,2,0,2,0,2,0,2,3,0,0,0,0,3,2,3,3"
    assert len(scores) == 10 + 54 + 2 + 14
    assert accepted == "accepted  100% of random draws  61% of mutations  40% of crossovers"
    head, best, scores, accepted = (line.plain for line in render_lines(search_task(), 40))
    assert head == "search    generation 7 of 20  2:52 left"
    assert best == "best      72.45%  318.2M FLOPs"
    assert len(scores) == 40


def test_a_cut_architecture_says_so() -> None:
    assert render_lines(search_task(), 60)[1].plain == "best      72.45%  318.2M FLOPs  2,1,0,1,2,0,2,0,2,0,2,3,0,0…"


def test_sparklines() -> None:
    assert render_sparkline([0, 1, 2, 3, 4, 5, 6, 7], 20) == "▁▂▃▄▅▆▇█"
    assert render_sparkline([0, 0, 4, 4, 8, 8], 3) == "▁▅█"
    assert render_sparkline([3, 3], 5) == "▁▁"
    assert render_sparkline([], 5) == ""
    assert render_sparkline([1, math.nan, 2, math.inf], 5) == "▁█"
    assert len(render_sparkline(range(1000), 61)) == 61


def test_messages_stay_above_the_dashboard(terminal: Terminal) -> None:
    with track("search", 10, "candidates", dashboard=True) as task:
        task.rows = [("best", ("50.00%",))]
        for number in range(30):
            task.advance(number % 3 == 0)
            terminal.console.print(f"message {number}")
        assert terminal.lines[-3:-2] == ["message 29"]
        assert terminal.lines[-1] == "best      50.00%"
    terminal.console.print("behind it")
    everything = terminal.everything
    assert everything[:30] == [f"message {number}" for number in range(30)]
    assert [line[:8].rstrip() for line in everything[30:]] == ["search", "best", "behind i"]


@pytest.mark.parametrize("breaks_up", [False, True])
def test_a_terminal_that_is_resized(monkeypatch: pytest.MonkeyPatch, breaks_up: bool) -> None:
    """Nothing is left behind, and nothing else is erased, whether or not it breaks long lines up."""
    monkeypatch.setenv("TERM", "xterm-256color" if breaks_up else "linux")
    monkeypatch.delenv("XTERM_VERSION", raising=False)
    monkeypatch.setattr(Task, "seconds", 100.0)  # on a busy machine, the time left may change before it is compared
    terminal = Terminal(80, breaks_up)
    monkeypatch.setattr(progress, "console", terminal.console)
    live = progress._Live(search_task())
    live.auto_refresh = False
    with live:
        for number, columns in enumerate((80, 40, 60, 33, 80, 25)):
            terminal.resize(columns)
            terminal.console.print(f"message {number}")
            live.refresh()
            assert terminal.lines[: number + 1] == [f"message {n}" for n in range(number + 1)]
            assert terminal.lines[number + 1 :] == [
                line.plain.rstrip() for line in render_lines(live.view.task, columns)
            ]


def test_where_the_cursor_cannot_move_there_are_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("TERM", "dumb")
    file = io.StringIO()
    for console in (Console(file=file, force_terminal=True), Console(file=file)):
        monkeypatch.setattr(progress, "console", console)
        with track("supernet", 4, "steps", dashboard=True) as task:
            task.rows = [("loss", ("1.0",))]
            task.advance(3, note="loss 1.000")
    lines = file.getvalue().splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("supernet: 3/4 steps, ")
        assert line.endswith(" left, loss 1.000")


def test_the_other_processes_show_nothing(terminal: Terminal) -> None:
    with track("supernet", 4, "steps", quiet=True, dashboard=True) as task:
        task.advance(3)
    assert terminal.file.getvalue() == ""


def test_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, force_terminal=True, width=80))
    with track("search", 10, "candidates", dashboard=True) as task:
        task.rows = search_task().rows
    assert "█" in file.getvalue()
    assert not any(f"\x1b[{colour}m" in file.getvalue() for colour in range(30, 38))


def test_the_rows_of_a_training() -> None:
    history = History()
    assert history.rows == []
    for step in range(1, 4):
        history.add({"step": step, "loss": 4.0 - step, "top1": step / 10, "lr": 0.05, "images_per_second": 1234.5})
    history.add({"step": 3, "val_top1": 0.625, "val_loss": 1.0})
    history.add({"step": 4, "loss": None, "top1": 0.5})  # by hand, or from elsewhere
    rows = {label: [piece for piece in pieces if isinstance(piece, str)] for label, pieces in history.rows}
    assert rows == {
        "loss": ["1.000  "],
        "top-1": ["30.0%  "],
        "validated": ["62.50% ", "step 3, best 62.50%"],
        "now": ["learning rate 0.05", "1,234 images/s"],
    }
    assert history.rows[0][1][1] == Curve([3.0, 2.0, 1.0])
