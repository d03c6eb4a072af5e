"""`spos status` on run folders that are whole, young, torn or in use."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from spos_cli import cli
from spos_cli.config import loading
from spos_cli.errors import RunError
from spos_cli.files import lock
from spos_cli.files.reading import read_json, read_yaml
from spos_cli.search.journal import Entry
from spos_cli.space.architecture import Architecture
from tests.conftest import TINY

HOLD = "import sys, pathlib, time; from spos_cli.files import lock; l = lock.hold(pathlib.Path(sys.argv[1])); {}"
BEST = Architecture((1, 2, 0, 3))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with nothing in it yet; its settings are in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("spos.yaml").write_text(TINY)
    run = Path("runs/tiny")
    run.mkdir(parents=True)
    return run


def get_status(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object) -> Any:
    monkeypatch.setattr(sys, "argv", ["spos", "status", "--json", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    output = capfd.readouterr()
    assert stopped.value.code == 0, output.err
    result = json.loads(output.out)
    return {**result, "stages": {stage["name"]: stage for stage in result["stages"]}}


def begin(folder: Path, *overrides: str) -> None:
    """Begin a stage: write its settings, and those of the run."""
    settings = loading.load(Path("spos.yaml"), list(overrides)).to_yaml()
    for path in (folder, folder.parents[len(folder.parts) - 3]):
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.yaml").write_text(settings)


def train(folder: Path, logged: int, saved: int, **more: float) -> None:
    lines = [
        {"step": step, "lr": 0.1, "loss": 3 - step / 100, "top1": step / 200, "images": 320, "images_per_second": 64.0}
        for step in range(10, logged + 1, 10)
    ]
    text = "".join(json.dumps(line) + "\n" for line in [*lines, *([{"step": logged, **more}] if more else [])])
    (folder / "metrics.jsonl").write_text(text + '{"step": 4, "lo')
    for name in ("last.pt", f"step-{saved:08d}.pt") if saved else ():
        (folder / name).write_bytes(b"never read")


def score(folder: Path, count: int, result: str | None = None) -> None:
    entries = [
        Entry(
            BEST if i == 2 else Architecture((0, 0, i % 4, i // 4)),
            1000 + i,
            10,
            0.9 if i == 2 else 0.5,
            1.0,
            100,
            i // 6,
            "random",
        )
        for i in range(count)
    ]
    text = "".join(entry.to_line() for entry in entries)
    (folder / "journal.jsonl").write_text(text + '{"architecture": [0, 0')
    if result is not None:
        (folder / "result.yaml").write_text(result)


def make_older(*paths: Path) -> None:
    for path in paths:
        for file in path.rglob("*"):
            os.utime(file, (time.time() - 1000, time.time() - 1000))


def test_an_empty_run_folder(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    result = get_status(monkeypatch, capfd)
    assert {stage["state"] for stage in result["stages"].values()} == {"not begun"}
    assert list(result["stages"]) == ["supernet", "search", "export-arch", "retrain"]
    assert (result["next"], result["after"]) == ("spos supernet-train", None)


def test_from_a_stopped_supernet_to_a_model(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    supernet, search = folder / "supernet", folder / "search"
    begin(supernet)
    result = get_status(monkeypatch, capfd)
    assert result["stages"]["supernet"]["note"] == "nothing saved yet"
    train(supernet, 50, 40)
    result = get_status(monkeypatch, capfd)
    stage = result["stages"]["supernet"]
    assert (stage["state"], stage["done"], stage["total"]) == ("stopped", 40, 100)
    assert (stage["metrics"]["loss"], stage["metrics"]["step"]) == (2.5, 50)
    assert result["next"] == "spos supernet-train"

    train(supernet, 100, 100)
    result = get_status(monkeypatch, capfd)
    assert (result["stages"]["supernet"]["state"], result["next"]) == ("complete", "spos search")

    begin(search)
    score(search, 7)
    result = get_status(monkeypatch, capfd)
    stage = result["stages"]["search"]
    assert (stage["state"], stage["done"], stage["total"]) == ("stopped", 7, 18)
    assert stage["best"] == {"architecture": [1, 2, 0, 3], "flops": 1002, "top1": 0.9}
    assert stage["metrics"] == {"generation": 1, "generations": 2}
    assert result["next"] == "spos search"

    score(search, 15, "complete: true\nplanned: 2\n")  # the limits allow no more
    result = get_status(monkeypatch, capfd)
    assert (result["stages"]["search"]["state"], result["next"]) == ("complete", "spos export-arch")
    score(search, 15, "complete: false\nplanned: 2\n")
    assert get_status(monkeypatch, capfd)["stages"]["search"]["state"] == "stopped"
    score(search, 18, "complete: true\nplanned: 2\n")
    assert get_status(monkeypatch, capfd)["stages"]["search"]["state"] == "complete"

    arch = folder / "archs" / BEST.id / "arch.yaml"
    arch.parent.mkdir(parents=True)
    arch.write_text("architecture: [1, 2, 0, 3]\nflops: 1002\nfitness: {top1: 0.9}\n")
    result = get_status(monkeypatch, capfd)
    assert result["stages"]["export-arch"]["best"] == {"id": BEST.id, "flops": 1002, "top1": 0.9}
    assert result["next"] == f"spos retrain {arch}"

    retrain = folder / "retrain" / BEST.id
    begin(retrain)
    train(retrain, 90, 80, val_top1=0.75)
    result = get_status(monkeypatch, capfd)
    stage = result["stages"][f"retrain {BEST.id}"]
    assert (stage["state"], stage["done"], stage["best"]) == ("stopped", 80, {"val_top1": 0.75})
    assert result["next"] == f"spos retrain {arch}"
    train(retrain, 100, 100)
    assert get_status(monkeypatch, capfd)["stages"][f"retrain {BEST.id}"]["note"] == "the last BatchNorm pass remains"
    (retrain / "model.pt").write_bytes(b"never read")
    result = get_status(monkeypatch, capfd)
    assert result["stages"][f"retrain {BEST.id}"]["state"] == "complete"
    assert result["next"] == f"spos evaluate --weights {retrain / 'model.pt'}"


def test_the_next_command_has_the_settings_of_the_run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    """Whatever `spos.yaml` says meanwhile, and from any working folder."""
    begin(folder / "supernet")
    train(folder / "supernet", 100, 100)
    begin(folder / "search", "search.population=4")
    score(folder / "search", 3)
    assert get_status(monkeypatch, capfd)["next"] == "spos search --config runs/tiny/search/config.yaml"
    assert get_status(monkeypatch, capfd, "runs/tiny")["next"] == "spos search --config runs/tiny/config.yaml"
    moved = folder.rename("else where")
    result = get_status(monkeypatch, capfd, "else where")
    expected = ["spos", "search", "--config", "else where/config.yaml", "--run-dir", "else where"]
    assert shlex.split(result["next"]) == expected
    assert result["stages"]["search"]["total"] == 12
    (moved / "supernet" / "last.pt").unlink()  # the search was begun with another file
    assert "--weights FILE" in get_status(monkeypatch, capfd, "else where")["next"]


def test_a_stage_that_was_started_over_comes_before_later_ones(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    for stage in ("supernet", f"retrain/{BEST.id}"):
        begin(folder / stage)
        train(folder / stage, 100, 100)
    (folder / "retrain" / BEST.id / "model.pt").touch()
    make_older(folder / "retrain")
    assert get_status(monkeypatch, capfd)["next"].startswith("spos evaluate")
    begin(folder / "search")
    score(folder / "search", 7)
    assert get_status(monkeypatch, capfd)["next"] == "spos search"


def test_an_architecture_that_was_not_exported_is_found_in_the_journal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    begin(folder / "search")
    score(folder / "search", 18, "complete: true\nplanned: 2\n")
    for arch, name in ((BEST, "1,2,0,3"), (Architecture((3, 3, 3, 3)), "ARCH")):
        begin(folder / "retrain" / arch.id)
        train(folder / "retrain" / arch.id, 20, 20)
        assert get_status(monkeypatch, capfd)["next"] == f"spos retrain {name}"
        make_older(folder)


def test_from_another_search_only_scores_on_the_same_images_count(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    begin(folder / "search")
    journal, other = folder / "search" / "journal.jsonl", Architecture((3, 3, 3, 3))
    for origin, earlier, best in (("imported", False, BEST), ("mutation", True, other)):
        score(folder / "search", 7)
        line = Entry(other, 10, 10, 1.0, 1.0, 100, 0, origin, earlier=earlier).to_line()
        journal.write_text(line + journal.read_text())
        stage = get_status(monkeypatch, capfd)["stages"]["search"]
        assert (stage["best"]["architecture"], stage["done"]) == (best.to_list(), 7)
        assert "1 more from another search" in stage["note"]
        journal.write_text(line)
        stage = get_status(monkeypatch, capfd)["stages"]["search"]
        assert (stage.get("best", {}).get("top1"), stage["done"]) == (1.0 if earlier else None, 0)


@pytest.mark.parametrize(
    "torn", [b"", b"{", b"\xff\xfe", b"[1, 2]", b"a: [", b'{"step": "x"}\n{"step": 1, "loss": "y"}\n']
)
def test_torn_files_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path, torn: bytes
) -> None:
    for stage in ("supernet", "search", "retrain/0123456789", "archs/0123456789", "audit"):
        (folder / stage).mkdir(parents=True)
        for name in ("config.yaml", "metrics.jsonl", "journal.jsonl", "result.yaml", "arch.yaml", "last.pt"):
            (folder / stage / name).write_bytes(torn)
    for name in ("flops_table.json", "latency_table.json", ".search.lock"):
        (folder / name).write_bytes(torn)
    result = get_status(monkeypatch, capfd)
    assert result["stages"]["search"]["state"] == "stopped"
    monkeypatch.setattr(sys, "argv", ["spos", "status"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0


@pytest.mark.parametrize(
    ("conditions", "device"),
    [
        ({"device": "Pixel 8", "imported": True}, "Pixel 8, imported"),
        ({"device": "", "imported": True}, "an unnamed device, imported"),
        ({"imported": True}, None),
        ({"device": "Pixel 8", "imported": 1}, None),  # A measured table has a rank correlation.
        ([], None),
        ("Pixel 8", None),
        (None, None),
    ],
)
def test_the_device_of_an_imported_table(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    folder: Path,
    conditions: object,
    device: str | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latency_table.json").write_text(json.dumps({"conditions": conditions, "fixed": 1}))
    stage = get_status(monkeypatch, capfd)["stages"]["latency table"]
    assert stage.get("metrics") == (None if device is None else {"device": device})


def test_infinite_numbers_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    """No number in a file overflows, and no line ends the command."""
    for number in (str(10**400), "-1e999", "NaN", "true"):
        for stage in ("supernet", "search", "archs/0123456789", "audit"):
            (folder / stage).mkdir(parents=True, exist_ok=True)
        names = ("step", "loss", "top1", "lr", "images_per_second", "val_top1")
        lines = [{name: number if name == wild else 1 for name in names} for wild in names]
        lines += [{"step": 7, "loss": 2.0, "top1": 0.5}]
        text = "".join(json.dumps(line).replace(f'"{number}"', number) + "\n" for line in lines)
        (folder / "supernet" / "metrics.jsonl").write_text(text)
        score = f"{{architecture: [0, 0, 0, 0], flops: {number}, params: 1, fitness: {{top1: {number}}}}}"
        (folder / "archs" / "0123456789" / "arch.yaml").write_text(score)
        (folder / "audit" / "result.json").write_text(f'{{"fidelity": {{"kendall": {{"value": {number}}}}}}}')
        for wild in ("architectures", "minimum", "maximum"):
            table = {name: number if name == wild else 1 for name in ("architectures", "minimum", "maximum")}
            (folder / "flops_table.json").write_text(json.dumps(table).replace(f'"{number}"', number))
            table = f'{{"conditions": {{"device": "a CPU"}}, "spearman": {number}}}'
            (folder / "latency_table.json").write_text(table)
            result = get_status(monkeypatch, capfd)
            assert result["stages"]["supernet"]["metrics"]["step"] == 7
            assert result["stages"]["export-arch"]["best"] == {"id": "0123456789"}
            assert "metrics" not in result["stages"]["latency table"]
            assert "metrics" not in result["stages"]["audit"]


def test_a_running_stage_is_known_by_its_lock_which_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path
) -> None:
    begin(folder / "supernet")
    train(folder / "supernet", 50, 40)
    path = folder / ".supernet.lock"
    code = HOLD.format("l.__enter__(); print('held', flush=True); sys.stdin.read(1); l.__exit__(None, None, None)")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(path)], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "held\n"
        before = path.read_bytes(), path.stat().st_mtime_ns
        result = get_status(monkeypatch, capfd)
        stage = result["stages"]["supernet"]
        assert (stage["state"], stage["done"]) == ("running", 50)
        assert stage["process"].startswith(f"process {process.pid} on ")
        assert stage["seconds_left"] == 50 * 32 / 64
        assert (result["next"], result["after"]) == ("spos search", "supernet")
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before
        with (folder / "supernet" / "metrics.jsonl").open("a") as file:
            file.write('\n{"step": 50, "loss": 1, "top1": 1, "images_per_second": 5e-324}\n')
        assert "seconds_left" not in get_status(monkeypatch, capfd)["stages"]["supernet"]  # it would be infinite
        with pytest.raises(RunError, match="is in use by process"), lock.hold(path):
            pass
        process.communicate("x")
    assert lock.find_holder(path) is None
    assert get_status(monkeypatch, capfd)["stages"]["supernet"]["state"] == "stopped"


def test_an_audit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    """It also holds the lock of the search, and no other stage needs it."""
    begin(folder / "supernet")
    train(folder / "supernet", 100, 100)
    begin(folder / "search")
    score(folder / "search", 18, "complete: true\nplanned: 2\n")
    make_older(folder)
    audit = folder / "audit"
    begin(audit, "audit.architectures=3")
    (audit / "alone" / BEST.id).mkdir(parents=True)
    (audit / "alone" / BEST.id / "model.pt").touch()
    code = HOLD.format(
        "m = lock.hold(pathlib.Path(sys.argv[2])); l.__enter__(); m.__enter__(); print('held', flush=True); "
        "sys.stdin.read(1); m.__exit__(None, None, None); l.__exit__(None, None, None)"
    )
    command = [sys.executable, "-c", code, str(folder / ".search.lock"), str(folder / ".audit.lock")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "held\n"
        result = get_status(monkeypatch, capfd)
        assert result["stages"]["search"]["state"] == "complete"
        stage = result["stages"]["audit"]
        assert (stage["state"], stage["done"], stage["total"]) == ("running", 1, 3)
        assert (result["next"], result["after"]) == ("spos export-arch", "audit")
        process.communicate("x")
    result = get_status(monkeypatch, capfd)
    assert (result["stages"]["audit"]["state"], result["after"]) == ("stopped", None)
    assert result["next"] == "spos audit --config runs/tiny/audit/config.yaml"
    curve = {"seed": 0, "best": [0.8125] * 200_000}  # a very long search
    (audit / "result.json").write_text(json.dumps({"fidelity": {"kendall": {"value": 0.25}}, "random": [curve]}))
    result = get_status(monkeypatch, capfd)
    assert (result["stages"]["audit"]["state"], result["stages"]["audit"]["metrics"]) == ("complete", {"kendall": 0.25})
    assert result["next"].startswith("spos export-arch")


def test_a_lock_file_of_a_killed_process_has_no_holder(tmp_path: Path) -> None:
    path = tmp_path / ".search.lock"
    path.write_text("process 1 on somewhere, since yesterday")
    assert lock.find_holder(path) is None
    assert lock.find_holder(tmp_path / "none") is None
    code = HOLD.format("l.__enter__(); print('held', flush=True)")  # asking takes no lock
    assert "held" in subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True).stdout


def test_a_torn_file_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "result.yaml"
    for text in ("", "- 1", "a: [", "{}", "\0", "a: &a [*a", "a: 1\n" + "#" * 2**23):  # larger than any of our files
        path.write_text(text)
        assert read_yaml(path) == read_json(path) == {}
    path.write_text('{"a": 1}')
    assert read_yaml(path) == read_json(path) == {"a": 1}
    assert read_yaml(tmp_path) == read_json(tmp_path / "none") == {}


def test_mistakes(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    for arguments, message in (
        (["nowhere"], "there is no run folder nowhere"),
        (["runs/tiny", "--run-dir", "x"], "both name the run folder"),
    ):
        monkeypatch.setattr(sys, "argv", ["spos", "status", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 2
        assert message in capfd.readouterr().err


def test_torch_is_not_imported(folder: Path) -> None:
    begin(folder / "supernet")
    train(folder / "supernet", 50, 40)
    code = (
        "import sys; from spos_cli import cli; sys.argv = ['spos', 'status', 'runs/tiny']\n"
        "try: cli.main()\nexcept SystemExit as stop: assert stop.code == 0\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "stopped, 40 of 100 steps" in done.stdout
