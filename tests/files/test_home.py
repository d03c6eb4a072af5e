"""`~` in paths of the command line, of YAML files and of `--set` is the user's home folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spos_cli.files.home import expand_argument
from tests.conftest import Mistake, Spos


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of a name that needs quotes in a shell."""
    path = tmp_path / "a home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    return path


def test_only_the_beginning_of_a_value_is_expanded(home: Path) -> None:
    expected = {
        "~": str(home),
        "~/runs/x": f"{home}/runs/x",
        "--run-dir=~/runs": f"--run-dir={home}/runs",
        "-c~/a.yaml": f"-c{home}/a.yaml",
    }
    same = ["./~", "a~", "runs/~/x", "~no-such-user/x", "--set=data.root=~/d", "data.root=~/d", "--", "-", ""]
    assert {word: expand_argument(word) for word in [*expected, *same]} == expected | dict(zip(same, same, strict=True))


@pytest.mark.parametrize("given", [["--run-dir=~/runs/x"], ["--run-dir", "~/runs/x"], ["--set", "run_dir=~/runs/x"]])
def test_a_run_folder_at_home(spos: Spos, home: Path, given: list[str]) -> None:
    done = spos.here("flops-table", *given)
    assert (home / "runs" / "x" / "flops_table.json").is_file()
    assert not (spos.folder / "~").exists()
    assert done.stdout.count("next: spos supernet-train") == 1
    assert "flops-table" not in spos.here("status", "~/runs/x").stdout.partition("next:")[2]


def test_settings_that_are_paths(spos: Spos, home: Path) -> None:
    text = (
        "run_dir: ~/r\ndata: {root: ~/d, train_folder: ~/t, val_folder: ~/v}\nretrain: {teacher: {weights: ~/t.pt}}\n"
    )
    (home / "a.yaml").write_text(text)
    settings = yaml.safe_load(spos.here("search", "-c~/a.yaml", "--print-config").stdout)
    assert settings["run_dir"] == f"{home}/r"
    assert [settings["data"][name] for name in ("root", "train_folder", "val_folder")] == [
        f"{home}/{name}" for name in "dtv"
    ]
    assert settings["retrain"]["teacher"]["weights"] == f"{home}/t.pt"


def test_files_of_options(mistake: Mistake, home: Path) -> None:
    for command in (["evaluate", "--weights=~/m.pt"], ["search", "--weights=~/m.pt"], ["retrain", "~/m.pt"]):
        assert f"{home}/m.pt" in mistake(*command)
