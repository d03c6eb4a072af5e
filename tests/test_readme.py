"""What the pages say is true: commands, targets, modules, links, code, settings, files and the code map.

A page is README.md, or the README.md of a folder. Lists are read from the code, never written by hand.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer
import yaml
from PIL import Image

from spos_cli import cli
from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.engine import checkpoint
from spos_cli.export import onnx_file
from spos_cli.export.inference import InferenceNetwork
from spos_cli.models.network import Network
from spos_cli.run.weights_file import make_network_content
from spos_cli.space.architecture import parse
from tests import code_map, settings_table
from tests.export.networks import NETWORKS, describe, make_network

ROOT = Path(__file__).parents[1]
FILES = [
    ROOT / "README.md",
    *(file for name in ("configs", "spos_cli", "tests") for file in (ROOT / name).rglob("README.md")),
]
PAGES = {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in FILES}
README = PAGES["README.md"]
ALL = "\n".join(PAGES.values())
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
APP = typer.main.get_command(cli.app)
COMMANDS = sorted(APP.commands)  # type: ignore[attr-defined]
RUN_FOLDER = PAGES["spos_cli/README.md"].split("## A run folder")[1].split("## Glossary")[0]


def find_blocks(language: str) -> list[str]:
    """Return the code blocks of all pages in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", ALL, re.DOTALL | re.MULTILINE)


def find_shell_lines() -> list[str]:
    """Return every shell line in the pages: from blocks, after `$` in transcripts, and between backticks."""
    shell = "\n".join(find_blocks("sh")).splitlines()
    screens = [line[2:] for line in "\n".join(find_blocks("console")).splitlines() if line.startswith("$ ")]
    prose = re.sub(r"^```.*?^```", "", ALL, flags=re.DOTALL | re.MULTILINE)
    inline = [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose)]
    return sorted({re.split(r"\s+[>#]", line)[0] for line in (*shell, *screens, *inline)})


def find_spos_lines() -> list[str]:
    """Return the command lines of `spos`, without the placeholders of optional arguments."""
    lines = [re.sub(r"\s*\[[A-Z_.]+\]", "", line) for line in find_shell_lines()]
    lines += [f"spos {line.split(' -m spos_cli ')[1]}" for line in lines if " -m spos_cli " in line]
    return sorted({line for line in lines if line.startswith("spos ")})


@pytest.mark.parametrize("command", find_spos_lines())
def test_commands_parse(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --help at its end, a command is parsed as a whole, and an unknown option is an error."""
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0, capsys.readouterr().err


def test_commands_are_found() -> None:
    """Each way of writing a command is found, so that a mistake in the expressions above leaves none untested."""
    lines = find_spos_lines()
    assert "spos supernet-train" in lines  # after torchrun ... -m spos_cli, and in a table
    assert "spos search --config demo" in lines  # after $ in the transcript
    assert "spos flops-table --import op_flops_dict.pkl" in lines  # between backticks
    assert "spos supernet-train --config imagenet --set data.root=D --set space.classes=37 --print-config" in lines
    assert len(lines) > 40


def test_readme_lists_every_command() -> None:
    """The table has one row for each command and no other, and some page shows each command with arguments."""
    assert sorted(re.findall(r"^\| `spos ([a-z-]+)", README, re.MULTILINE)) == COMMANDS
    for name in COMMANDS:
        assert any(line.startswith(f"spos {name} ") for line in find_spos_lines()), name


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("name", PAGES)
def test_prose_fits_in_a_window(name: str) -> None:
    prose = re.sub(r"^```.*?^```", "", PAGES[name], flags=re.DOTALL | re.MULTILINE)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_make_targets_exist() -> None:
    """The Makefile has every target that a page names, and the part about contributing explains every target."""
    named = {line.split()[1] for line in find_shell_lines() if line.startswith("make ")}
    assert named <= set(TARGETS)
    contributing = PAGES["spos_cli/README.md"].split("## Contributing")[1]
    assert set(TARGETS) <= set(re.findall(r"`make ([a-z-]+)`", contributing))


def test_modules_exist() -> None:
    modules = {line.split()[2] for line in find_shell_lines() if line.startswith("python -m ")}
    assert {"tests.benchmarks.racing", "tests.gpu"} <= modules
    for module in modules:
        assert importlib.util.find_spec(module) is not None, module


def test_extras_exist() -> None:
    """`pip install '.[demo]'` asks for what pyproject.toml has."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    named = {extra for listed in re.findall(r"pip install '[a-z.]+\[([a-z,]+)\]'", ALL) for extra in listed.split(",")}
    assert named
    for extra in named:
        assert re.search(rf"^{extra} = \[", extras, re.MULTILINE), extra


def make_anchors(text: str) -> set[str]:
    """Return the fragments that the headings of a page can be linked by."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_links_exist(name: str) -> None:
    """Links and pictures lead to files of the repository, and to headings that are there."""
    folder = (ROOT / name).parent
    targets = [*re.findall(r"\]\(([^)\s]+)\)", PAGES[name]), *re.findall(r'(?:src|href)="([^"]+)"', PAGES[name])]
    for target in targets:
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        file = folder / path if path else ROOT / name
        assert file.exists(), target
        if fragment:
            assert fragment in make_anchors(file.read_text(encoding="utf-8")), target


def test_every_page_is_linked_from_the_readme() -> None:
    assert {name for name in PAGES if f"]({name})" in README} == set(PAGES) - {"README.md"}


def test_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a folder with the files that the code names."""
    config, architecture = loading.load(loading.find_config("demo")), parse("0,0,0,0,0,0,0,0")
    state = Network(config.space.build(), architecture).state_dict()
    content = make_network_content(config, architecture, state, ["the only class"] * config.space.classes, {})
    checkpoint.save(tmp_path / "model.pt", content)
    Image.new("RGB", (30, 20)).save(tmp_path / "cat.jpg")
    space, small = NETWORKS["skips"]
    network = InferenceNetwork(make_network(space, small), config.data.preset)
    onnx_file.write(network, describe(network, small), tmp_path / "network.onnx")
    monkeypatch.chdir(tmp_path)
    for code in find_blocks("python"):
        exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [f"the only class {architecture}", "322918720"]


def test_settings_load() -> None:
    blocks = [loading.validate(yaml.safe_load(text)) for text in find_blocks("yaml")]
    assert {"csv", "tar", "huggingface"} <= {config.data.source for config in blocks}
    assert "rmsprop" in {config.retrain.optimizer for config in blocks}
    assert 5 in {config.space.stem.in_channels for config in blocks}
    (space,) = (config.space.build() for config in blocks if config.space.widths)
    assert space.widths == (500, 1000, 1500)
    assert space.options.counts == [6, 7, 7, 3, 4, 4, 4]


def test_tables_of_settings_are_those_of_the_config() -> None:
    text = PAGES["configs/README.md"]
    assert settings_table.replace_tables(text) == text, "configs/README.md is stale: run `make docs`"


def test_every_setting_is_in_a_table() -> None:
    """The keys come from resolved settings, not from the fields that the tables are made of. `N` is 0.

    A section that may be null is a setting itself.
    """

    def keys(value: object, prefix: str) -> set[str]:
        if isinstance(value, dict) and not prefix.startswith(("space.choices", "search.limits")):
            return set().union(*(keys(inner, f"{prefix}.{key}".lstrip(".")) for key, inner in value.items()))
        if prefix in ("space.stages", "costs") and isinstance(value, list) and value:
            return {prefix} | keys(value[0], f"{prefix}.N")
        return {prefix}

    text = PAGES["configs/README.md"].split(settings_table.BEGIN)[1]
    more = ["data.augmentation.rand_augment.ops=1", "retrain.teacher.weights=model.pt", "costs=[{name: a, table: b}]"]
    assert set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)) == keys(Config().dump(), "") | keys(
        loading.validate({}, more).dump(), ""
    ) | {"space.channels_of"}  # Resolved settings have the blocks instead.


def test_settings_in_pages_exist() -> None:
    """Every `section.setting` between backticks is a setting, or a section with settings."""
    rows = set(re.findall(r"^\| `([\w.]+)` \|", PAGES["configs/README.md"], re.MULTILINE))
    sections = "space|data|supernet|search|retrain|audit"
    for text in re.findall(rf"`((?:{sections})\.[\w.]+)", ALL):
        name = re.sub(r"\.\d+\.", ".N.", text)
        assert name in rows or any(row.startswith(f"{name}.") for row in rows), text


def test_recipes_are_listed() -> None:
    """The table of recipes has every shipped recipe and nothing else."""
    table = PAGES["configs/README.md"].split("## Recipes")[1].split("\n## ")[0]
    assert set(re.findall(r"\[`(\w+)`\]\(\1\.yaml\)", table)) == set(loading.list_recipes())


def test_code_map_is_true() -> None:
    page = PAGES["spos_cli/README.md"]
    assert code_map.write(page) == page, "spos_cli/README.md is stale: run `make docs`"
    assert "scoring.py" in page
    assert code_map.HEADING in page


def test_files_and_functions_exist() -> None:
    """The code has the files of the table `Where is...`, and in them the functions that it names."""
    table = PAGES["spos_cli/README.md"].split("## Where is...")[1].split("## Code map")[0]
    for file in re.findall(r"`([\w/]+\.py)`", table):
        assert (ROOT / "spos_cli" / file).is_file(), file
    pairs = re.findall(r"`(\w+)` in `([\w/]+\.py)`", table)
    assert pairs
    for function, file in pairs:
        assert f"def {function}(" in (ROOT / "spos_cli" / file).read_text(encoding="utf-8"), function


def test_files_of_a_run_folder_are_written_by_the_code() -> None:
    """The code has the name of every file that the page names, except patterns such as step-*.pt."""
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "spos_cli").rglob("*.py"))
    files = set(re.findall(r"(?<![*\w-])\w+\.(?:jsonl?|yaml|pt|pkl|bits|html|u8)\b", RUN_FOLDER))
    assert {"journal.jsonl", "result.yaml", "model.pt"} <= files
    for file in files:
        assert f'"{file}"' in code or f"/{file}" in code, file


def test_every_path_of_a_run_is_on_the_page() -> None:
    """The page has every name of a file or a folder that `run/folder.py` joins to a path."""
    code = (ROOT / "spos_cli" / "run" / "folder.py").read_text(encoding="utf-8")
    names = {name for name in re.findall(r' / "([\w.]+)"', code) if not name.startswith(".")}
    assert {"inputs.json", "previous", "op_flops_dict.pkl"} <= names
    assert [name for name in sorted(names) if not re.search(rf"\b{re.escape(name)}\b", RUN_FOLDER)] == []


def test_official_things_are_not_called_published() -> None:
    """Only a recipe, a format and a folder have that word in their names."""
    text = re.sub(r"imagenet_published|--format published|published/", "", ALL)
    assert re.findall(r".*published.*", text) == []
