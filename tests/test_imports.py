"""Imports point downward only, and the light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "spos_cli"

# Each part, and the other parts that it may import.
LOW = {"errors", "seeding", "files", "space"}
MIDDLE = {*LOW, "models", "data", "engine", "search"}
HIGH = {*MIDDLE, "config", "official", "export", "run"}
BELOW: dict[str, set[str]] = {
    "errors": set(),
    "seeding": set(),
    "files": {"errors"},
    "space": {"errors", "seeding", "files"},
    "config": {"errors", "files", "space"},
    "models": {"errors", "seeding", "files", "space"},
    "data": {"errors", "seeding", "files", "space"},
    "engine": {*LOW, "models", "data"},
    "search": {*LOW, "models", "data", "engine"},
    "official": MIDDLE,
    "export": {"errors", "files", "space", "models", "data"},
    "run": {*MIDDLE, "config", "official", "export"},
    "report": HIGH,
    "doctor": HIGH,
    "stages": {*HIGH, "report", "doctor"},
    "arguments": set(),
    "options": HIGH,
    "exits": HIGH,
    "cli": {*HIGH, "stages", "arguments", "options", "exits"},
    "__main__": {"cli"},
}


def part_of(module: str) -> str | None:
    """Return the part of a module: `engine` for `spos_cli.engine.trainer`, None for the package itself."""
    names = module.split(".")
    return names[1] if names[0] == "spos_cli" and len(names) > 1 else None


def imported(path: Path) -> set[str]:
    """Return the parts that a file imports, also inside functions."""
    parts: set[str | None] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            parts |= {part_of(name.name) for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "spos_cli":
                parts |= {part_of(f"spos_cli.{name.name}") for name in node.names}
            else:
                parts.add(part_of(node.module))
    return {part for part in parts if part and part != "__version__"}


def test_every_arrow_points_down() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 30
    for path in files:
        relative = path.relative_to(PACKAGE)
        part = relative.parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        wrong = imported(path) - BELOW[part] - {part}
        assert not wrong, f"{relative} must not import {', '.join(sorted(wrong))}"


def test_no_stage_imports_another_one() -> None:
    for path in (PACKAGE / "stages").glob("*.py"):
        assert "stages" not in imported(path), path.name


def test_the_check_sees_an_arrow_that_points_up(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def f():\n    from spos_cli.config import loading\n    from spos_cli.stages.search import run\n")
    assert imported(path) == {"config", "stages"}


@pytest.mark.parametrize(
    "module",
    [
        "spos_cli.arguments",
        "spos_cli.cli",
        "spos_cli.exits",
        "spos_cli.options",
        "spos_cli.config.loading",
        "spos_cli.search.journal",
        "spos_cli.stages.status",
    ],
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
