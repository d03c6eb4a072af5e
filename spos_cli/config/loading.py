"""Read the YAML of an experiment: every mistake at once, each with its line."""

from __future__ import annotations

import copy
import difflib
import importlib.resources
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from spos_cli.config.schema import HELPERS, PLACE_AND_MACHINE, Config, Section
from spos_cli.errors import ConfigError
from spos_cli.files.reading import YAML_ERRORS
from spos_cli.space.architecture import shown

MOST_PLACES = 100_000  # fields of a file whose lines are remembered; aliases of aliases are more than anybody can count


def shipped() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    package = Path(str(importlib.resources.files("spos_cli")))
    installed, checkout = package / "configs", package.parent / "configs"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(config: str | None) -> Path:
    """The file that `--config` names: a path, or the name of a shipped recipe.

    Without one it is `./spos.yaml` if that is there, else the ImageNet recipe of the paper.
    """
    if config is None:
        local = Path("spos.yaml")
        return local if local.is_file() else shipped()["imagenet"]
    path = Path(config)
    if path.is_file():
        return path
    if config in shipped():
        return shipped()[config]
    raise ConfigError(f"there is no config file {config!r}; shipped recipes, by name: {', '.join(shipped())}")


@dataclass(frozen=True)
class Option:
    """A setting that an option of its own on the command line gives: `--seed 3` is `seed`."""

    name: str
    key: str
    value: object


Overrides = Sequence[str | Option]


def load(path: Path, overrides: Overrides = ()) -> Config:
    """Reads a YAML file and lays overrides over it: texts such as `supernet.lr=0.1`, or options.

    Raises:
        ConfigError: all mistakes of the file and the overrides, each with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from None
    values, places = _parse_yaml(text, str(path))
    return validate(values, overrides, places, str(path))


def without_machine(values: dict[str, Any]) -> dict[str, Any]:
    """A copy of settings from elsewhere, without the fields that say where and on what to work."""
    kept = {key: copy.deepcopy(value) for key, value in values.items() if key not in PLACE_AND_MACHINE}
    if isinstance(kept.get("data"), dict):
        kept["data"] = {key: value for key, value in kept["data"].items() if key not in HELPERS}
    return kept


def validate(
    values: dict[str, Any],
    overrides: Overrides = (),
    places: Mapping[tuple[str, ...], str] | None = None,
    origin: str = "settings",
) -> Config:
    """Plain values, with overrides laid over them, as a `Config`.

    Args:
        places: where a field was written (`imagenet.yaml:12`), for messages.
        origin: what the values came from, where `places` has nothing.
    """
    places = dict(places or {})
    for override in overrides:
        if isinstance(override, Option):
            keys, place = tuple(override.key.split(".")), _short(f"{override.name} {override.value}")
            _lay_over(values, keys, override.value, place, places)
        else:
            _override(values, override, places)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem, places, origin) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None


def _parse_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """The values of a YAML mapping, and the place of each field."""
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
        raise ConfigError(f"{name}: expected a mapping of sections such as 'supernet:', not {shown(values)}")
    places: dict[tuple[str, ...], str] = {}
    for path, number in itertools.islice(_walk(node), MOST_PLACES):
        if path in places:
            raise ConfigError(f"{name}:{number}: {'.'.join(path)} is given twice; first at {places[path]}")
        places[path] = f"{name}:{number}"
    return values, places


def _walk(
    node: yaml.Node | None, prefix: tuple[str, ...] = (), depth: int = 0
) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each field of a YAML document with its line number."""
    if depth > 20:  # deeper than any field of ours; an alias may point to itself
        return
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _walk(value, path, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            path = (*prefix, str(index))
            yield path, item.start_mark.line + 1
            yield from _walk(item, path, depth + 1)


def _override(values: dict[str, Any], override: str, places: dict[tuple[str, ...], str]) -> None:
    """Lays `section.key=value` over the values; the value is read as YAML."""
    name, equals, text = override.partition("=")
    keys, place = tuple(name.strip().split(".")), _short(f"--set {override}")
    if not equals or not all(keys):
        raise ConfigError(f"{place}: expected section.key=value, such as --set supernet.lr=0.1")
    try:
        value = yaml.safe_load(text)
    except YAML_ERRORS:
        raise ConfigError(f"{place}: {shown(text)} is not a valid YAML value") from None
    _lay_over(values, keys, value, place, places)


def _short(text: str) -> str:
    """What was typed, as a message quotes it."""
    return text if len(text) <= 200 else text[:197] + "..."


def _lay_over(
    values: dict[str, Any], keys: tuple[str, ...], value: object, place: str, places: dict[tuple[str, ...], str]
) -> None:
    """Sets one field, and remembers where it comes from."""
    name = ".".join(keys)
    target: Any = values
    default: Any = Config().dump()
    for key in keys[:-1]:
        default = default.get(key) if isinstance(default, dict) else None
        if isinstance(target, dict):
            if target.get(key) is None:  # a list that the file leaves out is changed from its default
                target[key] = default if isinstance(default, list) else {}
            target = target[key]
        elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
            target = target[int(key)]
        else:
            raise ConfigError(f"{place}: there is no {name} to set")
    last = keys[-1]
    if isinstance(target, dict):
        target[last] = value
    elif isinstance(target, list) and last.isdecimal() and int(last) < len(target):
        target[int(last)] = value
    else:
        raise ConfigError(f"{place}: there is no {name} to set")
    for key_path in [path for path in places if path[: len(keys)] == keys]:
        del places[key_path]
    places[keys] = place


def _describe(problem: Any, places: Mapping[tuple[str, ...], str], origin: str) -> str:
    """One line for one mistake: place, field, what is wrong, what is allowed."""
    location = tuple(str(part) for part in problem["loc"])
    unknown = problem["type"] == "extra_forbidden"
    while location and location not in places and not unknown and not _is_field(location):
        location = location[:-1]  # pydantic appends the tags of a union
    known = location
    while known and known not in places:
        known = known[:-1]
    # A rule between fields of a section: what was typed for those that it names may have broken it.
    named = set(re.findall(r"\w+", problem["msg"]))
    inner = [path for path in places if path[: len(location)] == location != path and (unknown or path[-1] in named)]
    typed = " and ".join(places[path] for path in inner if places[path].startswith("--"))
    place = places.get(known, origin) + (f" with {typed}" if typed else "")
    if unknown and typed and location not in places:
        place = typed  # it is nowhere else
    field = ".".join(location)
    if unknown:
        siblings = _fields(location[:-1])
        close = difflib.get_close_matches(location[-1], siblings, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(siblings)}"
        return f"{place}: unknown setting {field!r}; {hint}"
    message = re.sub(r"^Value error, ", "", problem["msg"]).replace("a valid tuple", "a list")
    message = message[0].lower() + message[1:]
    seen = "" if problem["type"] in ("value_error", "missing") else f" (it is {shown(problem['input'])})"
    return f"{place}: {field + ': ' if field else ''}{message}{seen}"


def _section(location: Sequence[str]) -> type[Section] | None:
    """The section that a location such as ('space', 'stages', '0') stands for."""
    section: type[Section] | None = Config
    for part in location:
        if part.isdecimal():
            continue
        if section is None or part not in section.model_fields:
            return None
        kind = section.model_fields[part].annotation
        kinds = [kind, *getattr(kind, "__args__", ())]  # a section, or a tuple of them
        section = next((k for k in kinds if isinstance(k, type) and issubclass(k, Section)), None)
    return section


def _fields(location: Sequence[str]) -> list[str]:
    section = _section(location)
    return list(section.model_fields) if section else []


def _is_field(location: Sequence[str]) -> bool:
    return location[-1] in _fields(location[:-1]) or _section(location) is not None
