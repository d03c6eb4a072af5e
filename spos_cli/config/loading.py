"""Read the YAML of an experiment: all mistakes at once, each with its line.

`load` reads a file, lays overrides (`--set`, CLI options) over it and returns a `Config`.
"""

from __future__ import annotations

import importlib.resources
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from spos_cli.config.channels import fix_blocks
from spos_cli.config.schema import Config
from spos_cli.config.suggestions import find_section, list_fields, suggest_setting
from spos_cli.errors import ConfigError, SposError
from spos_cli.files.quoting import quote_value
from spos_cli.files.reading import YAML_ERRORS

MAX_REMEMBERED_FIELDS = 100_000  # YAML's aliases of aliases may stand for more fields than memory holds.
MAX_DEPTH = 20  # No setting is as deep, and an alias may point to itself.
MAX_QUOTED_OVERRIDE = 200  # characters

Key = tuple[str, ...]  # A setting, such as ("space", "stages", "0", "channels").
CHANNELS_OF: Key = ("space", "channels_of")
IMAGE_SIZE: Key = ("space", "image_size")
IMAGE_SIZES: Key = ("space", "image_sizes")
Places = dict[Key, str]  # Where each setting was written, such as `imagenet.yaml:12` or `--set supernet.lr=0.1`.


def list_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    package = Path(str(importlib.resources.files("spos_cli")))
    installed, checkout = package / "configs", package.parent / "configs"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(config: str | None) -> Path:
    """Return the file that `--config` names: a path, or the name of a shipped recipe.

    Without `--config` it is `./spos.yaml` if that exists, otherwise the ImageNet recipe of the paper.

    Raises:
        ConfigError: there is no such file or recipe.
    """
    recipes = list_recipes()
    if config is None:
        local = Path("spos.yaml")
        return local if local.is_file() else recipes["imagenet"]
    path = Path(config)
    if path.is_file():
        return path
    if config in recipes:
        return recipes[config]
    raise ConfigError(f"there is no config file {config!r}; shipped recipes: {', '.join(recipes)}")


@dataclass(frozen=True)
class CliOption:
    """A setting that has a CLI option of its own: `--seed 3` sets `seed`.

    Attributes:
        name: of the option, such as `--seed`.
        key: of the setting, such as `seed`.
        value: of the setting.
        text: the option as typed, for messages; empty for its name and the value.
    """

    name: str
    key: str
    value: object
    text: str = ""


Overrides = Sequence[str | CliOption]  # A text is what `--set` takes, such as `supernet.lr=0.1`.


def load(path: Path, overrides: Overrides = ()) -> Config:
    """Read a YAML file and lay overrides over it.

    Raises:
        ConfigError: all mistakes of the file and the overrides, each with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from None
    values, places = _parse_yaml(text, str(path))
    return validate(values, overrides, places, str(path))


def validate(
    values: dict[str, Any],
    overrides: Overrides = (),
    places: Mapping[Key, str] | None = None,
    origin: str = "settings",
) -> Config:
    """Return a `Config` of plain values, with overrides laid over them.

    Args:
        values: sections and their settings; overrides are written into them.
        overrides: texts such as `supernet.lr=0.1`, or CLI options.
        places: where each setting was written, for messages.
        origin: where the values come from, for settings that `places` does not have.

    Raises:
        ConfigError: all mistakes, one a line.
    """
    places = dict(places or {})
    for override in overrides:
        if isinstance(override, CliOption):
            key, place = tuple(override.key.split(".")), _shorten(override.text or f"{override.name} {override.value}")
            _override(values, key, override.value, place, places)
        else:
            key, value, place = _parse_override(override)
            _override(values, key, value, place, places)
    try:
        settings = Config.model_validate(values)
        return settings if settings.space.channels_of is None else Config.model_validate(fix_blocks(settings))
    except SposError as error:
        raise ConfigError(f"{places.get(CHANNELS_OF, origin)}: {'.'.join(CHANNELS_OF)}: {error}") from None
    except ValidationError as error:
        problems = [_describe(problem, places, origin) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def _parse_yaml(text: str, name: str) -> tuple[dict[str, Any], Places]:
    """Return the values of a YAML mapping, and the place of each field."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except YAML_ERRORS as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).split("\n")[0] or "nested too deeply"
        raise ConfigError(f"{name}{line}: not valid YAML: {problem}") from None
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise ConfigError(f"{name}: expected a mapping of sections such as 'supernet:', not {quote_value(values)}")
    places: Places = {}
    for key, line_number in itertools.islice(_iterate_fields(node), MAX_REMEMBERED_FIELDS):
        if key in places:
            raise ConfigError(f"{name}:{line_number}: {'.'.join(key)} is given twice; first at {places[key]}")
        places[key] = f"{name}:{line_number}"
    return values, places


def _iterate_fields(node: yaml.Node | None, prefix: Key = (), depth: int = 0) -> Iterator[tuple[Key, int]]:
    """Yield each field of a YAML document with its line number."""
    if depth > MAX_DEPTH:
        return
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            key = (*prefix, str(name.value))
            yield key, name.start_mark.line + 1
            yield from _iterate_fields(value, key, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            key = (*prefix, str(index))
            yield key, item.start_mark.line + 1
            yield from _iterate_fields(item, key, depth + 1)


def _parse_override(override: str) -> tuple[Key, Any, str]:
    """Return the key, the value (read as YAML) and the place of `section.key=value`."""
    name, equals, text = override.partition("=")
    key, place = tuple(name.strip().split(".")), _shorten(f"--set {override}")
    if not equals or not all(key):
        raise ConfigError(f"{place}: expected section.key=value, such as --set supernet.lr=0.1")
    try:
        return key, yaml.safe_load(text), place
    except YAML_ERRORS:
        raise ConfigError(f"{place}: {quote_value(text)} is not a valid YAML value") from None


def get_key(override: str | CliOption) -> Key:
    """Return the setting that an override changes, without checking it."""
    name = override.key if isinstance(override, CliOption) else override.partition("=")[0]
    return tuple(name.strip().split("."))


def _shorten(text: str) -> str:
    """Return what was typed, as a message quotes it."""
    return text if len(text) <= MAX_QUOTED_OVERRIDE else text[: MAX_QUOTED_OVERRIDE - 3] + "..."


def _override(values: dict[str, Any], key: Key, value: object, place: str, places: Places) -> None:
    """Set one field in `values`, and its place in `places`."""
    missing = ConfigError(f"{place}: there is no {'.'.join(key)} to set")
    target: Any = values
    default: Any = Config().dump()
    for name in key[:-1]:
        default = default.get(name) if isinstance(default, dict) else None
        if isinstance(target, dict):
            if target.get(name) is None:  # If the file leaves a list out, the override changes an item of the default.
                target[name] = default if isinstance(default, list) else {}
            target = target[name]
        elif _is_index(name, target):
            target = target[int(name)]
        else:
            raise missing
    last = key[-1]
    if isinstance(target, dict):
        target[last] = value
    elif _is_index(last, target):
        target[int(last)] = value
    else:
        raise missing
    for inner in [other for other in places if other[: len(key)] == key]:
        del places[inner]
    places[key] = place


def _is_index(name: str, target: Any) -> bool:
    """Return whether a part of a key is the index of an item in a list."""
    return isinstance(target, list) and name.isdecimal() and int(name) < len(target)


def _describe(problem: Any, places: Mapping[Key, str], origin: str) -> str:
    """Return one line for one of pydantic's errors: place, field, what is wrong and what is allowed."""
    key = tuple(str(part) for part in problem["loc"])
    is_unknown = problem["type"] == "extra_forbidden"
    if not is_unknown:  # pydantic appends the tags of a union, which are not fields.
        while key and key not in places and not _is_field(key):
            key = key[:-1]
    place, field = _place_of(key, problem["msg"], is_unknown, places, origin), ".".join(key)
    if is_unknown:
        return f"{place}: unknown setting {field!r}; {suggest_setting(key)}"
    message = re.sub(r"^Value error, ", "", problem["msg"]).replace("a valid tuple", "a list")
    message = message[0].lower() + message[1:]
    if problem["type"] == "model_type":
        message = f"should be a section with the settings {', '.join(list_fields(key))}"
    elif problem["type"] == "missing" and isinstance(problem["loc"][-1], int):
        message = f"the list has too few values, only {problem['loc'][-1]}"
    elif isinstance(problem["input"], int | float) and not problem["input"] and _may_be_null(key):  # 0 or false
        message += "; write null for none"
    seen = "" if problem["type"] in ("value_error", "missing") else f" (it is {quote_value(problem['input'])})"
    return f"{place}: {field + ': ' if field else ''}{message}{seen}"


def _place_of(key: Key, message: str, is_unknown: bool, places: Mapping[Key, str], origin: str) -> str:
    """Return where a mistake was written: its own place or its section's, and the overrides inside it."""
    around = key
    while around and around not in places:
        around = around[:-1]
    # A section may break a rule because of an override of one of its fields, which the rule's message then names.
    named = set(re.findall(r"\w+", message))
    inside = [other for other in places if other[: len(key)] == key != other and (is_unknown or other[-1] in named)]
    typed = " and ".join(places[other] for other in inside if places[other].startswith("--"))
    if is_unknown and typed and key not in places:
        return typed  # Only overrides name this section.
    return places.get(around, origin) + (f" with {typed}" if typed else "")


def _may_be_null(key: Sequence[str]) -> bool:
    """Return whether a setting is null unless it is set."""
    section = find_section(key[:-1])
    return section is not None and key[-1] in section.model_fields and section.model_fields[key[-1]].default is None


def _is_field(key: Sequence[str]) -> bool:
    return key[-1] in list_fields(key[:-1]) or find_section(key) is not None
