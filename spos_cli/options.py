"""The options that commands share, and how they become settings."""

from __future__ import annotations

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from spos_cli.errors import ConfigError

if TYPE_CHECKING:
    from spos_cli.config.loading import CliOption
    from spos_cli.config.schema import Config
    from spos_cli.engine.mirrors import MirrorName
    from spos_cli.run.command import Run
    from spos_cli.run.folder import RunFolder
    from spos_cli.space.image_size import ImageSize
    from spos_cli.space.limits import Limit

# From a run folder to its `--config` and `--run-dir`, and to overrides that find its images from the working folder.
FindSettings = Callable[[Path], tuple[str | None, str | None, list[str]]]


@dataclass(frozen=True)
class Options:
    """The options that commands share, as the user gave them.

    Each annotated field is an option of the command line. `search` has settings of the search that have their own
    option, such as `flops_limit`, as pairs of name and text, and `limits` those of `--limit`. `image_side` is
    `--image-size` of square images.
    """

    channels_of: Annotated[
        str | None,
        typer.Option(
            "--channels-of",
            metavar="ARCH",
            help="Fix the blocks of this architecture, a file or a literal, and search their widths.",
        ),
    ] = None
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="YAML file, or the name of a shipped recipe. Default: ./spos.yaml if it exists, else imagenet.",
        ),
    ] = None
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as supernet.lr=0.1. Repeatable."),
    ] = None
    run_dir: Annotated[
        str | None, typer.Option("--run-dir", metavar="DIR", help="Folder of the run. Default: runs/<name>.")
    ] = None
    devices: Annotated[
        str | None,
        typer.Option(
            "--devices", metavar="N|auto|cpu", help="Number of processes, auto (all GPUs, else the CPU), or cpu."
        ),
    ] = None
    max_restarts: Annotated[
        int | None,
        typer.Option("--max-restarts", metavar="N", help="Restart at most N times after a worker dies."),
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every random draw.")] = None
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved settings as YAML and exit.")
    ] = False
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the metrics as TensorBoard event files.")
    ] = False
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Also send the metrics to Weights & Biases; WANDB_MODE=offline keeps them.")
    ] = False
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Also send the metrics to MLflow, at MLFLOW_TRACKING_URI.")
    ] = False
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over. Earlier results are kept under another name.")] = (
        False
    )
    extend: Annotated[
        bool, typer.Option("--extend", help="Go on from the last checkpoint with other steps, lr or schedule.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, for scripts.")] = False
    search: tuple[tuple[str, str], ...] = ()
    limits: tuple[tuple[str, str], ...] = ()
    image_side: int | None = None

    @property
    def mirrors(self) -> tuple[MirrorName, ...]:
        """Where the metrics go besides the run folder."""
        given: dict[MirrorName, bool] = {"tensorboard": self.tensorboard, "wandb": self.wandb, "mlflow": self.mlflow}
        return tuple(name for name, is_given in given.items() if is_given)

    @property
    def flags(self) -> str:
        """The options that lead to the same settings in any command.

        An option that some commands do not have, such as `--seed` or `--flops-limit`, is written as `--set`.
        """
        from spos_cli.files.quoting import as_override

        flags: list[tuple[str, object]] = [] if self.config is None else [("--config", self.config)]
        flags += [("--set", override) for override in self.overrides or ()]
        for option in self._settings():
            is_common = option.key == "run_dir"
            flags.append((option.name, option.value) if is_common else ("--set", as_override(option.key, option.value)))
        return " ".join(f"{name} {shlex.quote(str(value))}" for name, value in flags)

    def with_search(self, **given: str | None) -> Options:
        """Return these options with settings of the search that have their own option; None: it was not given."""
        return replace(self, search=tuple((name, value) for name, value in given.items() if value is not None))

    def with_limits(self, given: Sequence[str] | None) -> Options:
        """Return these options with limits on the user's own costs.

        Args:
            given: values of `--limit`, such as `energy=12.5`.

        Raises:
            ConfigError: a value has another form, or two are of the same cost.
        """
        from spos_cli.space.cost_kinds import OWN_NAME

        limits: dict[str, str] = {}
        for text in given or ():
            name, equals, limit = (part.strip() for part in text.partition("="))
            if not equals or not limit or not OWN_NAME.fullmatch(name):
                raise ConfigError(f"--limit {text}: expected NAME=LIMIT, such as --limit energy=12.5")
            if name in limits:
                raise ConfigError(f"--limit {text}: {name} has the limit {limits[name]} already; give it once")
            limits[name] = limit
        return replace(self, limits=tuple(limits.items()))

    def with_image_size(self, text: str | None) -> tuple[Options, ImageSize | None]:
        """Return these options with the size of square images as the setting, and any other size by itself.

        A space has square images only. Other images are for use of a network that was trained.

        Raises:
            ConfigError: the text is not a size.
        """
        from spos_cli.space.image_size import parse_image_size

        size = None if text is None else parse_image_size(text)
        if size is None or not size.is_square:
            return self, size
        return replace(self, image_side=size.height), None

    def with_square_images(self, text: str | None) -> Options:
        """Return these options with a size of images for an exported network.

        Raises:
            ConfigError: the text is not a size, or not of a square.
        """
        options, other_size = self.with_image_size(text)
        if other_size is not None:
            raise ConfigError(f"an exported network takes square images, not {other_size}; give --image-size one side")
        return options

    def in_folder(self, folder: Path | None, find: FindSettings) -> Options:
        """Return these options with the settings in a run folder that is named as RUN_DIR, unless `--config` is given.

        Args:
            folder: the run folder; None changes nothing.
            find: how to find the settings of a run folder.

        Raises:
            ConfigError: the run folder is named with `--run-dir`, too.
            SposError: `find` found no settings.
        """
        require_one_folder(folder, self.run_dir)
        if folder is None:
            return self
        if self.config is not None:
            return replace(self, run_dir=str(folder))
        config, run_dir, overrides = find(folder)
        return replace(self, config=config, run_dir=run_dir, overrides=[*overrides, *(self.overrides or ())])

    def load(self) -> Config:
        """Return the settings that the options lead to. With `--print-config`, print them and exit.

        Raises:
            ConfigError: all mistakes of the file and the options, each with its place.
        """
        if self.mirrors:
            from spos_cli.engine.mirrors import require_package

            for name in self.mirrors:
                require_package(name)
        return self._print_if_asked(self._load())

    def load_for_weights(self, recorded: dict[str, Any] | None, *, reads_images: bool = True) -> Config:
        """Return the settings that a weights file has recorded, with the options laid over them.

        They say how images are prepared. `--config` only says where images are, and what to compute on. The recorded
        space is that of the weights, whatever `space.channels_of` says.

        Args:
            recorded: plain values; None for official weights, which have no settings. Then this is `load`.
            reads_images: whether the command reads the images of the settings, which may have to be downloaded.

        Raises:
            ConfigError: as in `load`; or the file, which may come from anyone, names code to import, or a folder
                outside of the working folder to download images to.
        """
        from spos_cli.config import identity, loading

        if recorded is None:
            return self.load()
        origin = "the settings in the weights file"
        images = None if self.config is None else self._load()
        overrides = [one for one in self._all_overrides() if loading.get_key(one) != loading.CHANNELS_OF]
        settings = loading.validate(identity.without_machine(recorded), overrides, origin=origin)
        if images is not None:
            settings = identity.with_images_of(settings, images)
        elif reads_images and not self._overrides_root():
            settings.require_root_here(origin)
        if images is None and reads_images and settings.data.source_kind == "own":
            settings.require_known_source(self._load().data.source, origin)
        if settings.own_blocks:
            settings.require_known_blocks(loading.load(loading.find_config(self.config)).own_blocks, origin)
        return self._print_if_asked(settings)

    def load_limits(self, **given: str | None) -> dict[str, Limit]:
        """Return limits of this command alone, by the name of their cost.

        They are read as a search reads its limits, so that a mistake has the same message in every command.

        Args:
            given: by setting, such as `flops_limit`, its value; None: it was not given.

        Raises:
            ConfigError: as in `load`.
        """
        limited = self.with_search(**given)
        if not limited.search and not limited.limits:
            return {}
        limits, own = limited._load().search.cost_limits, dict(limited.limits)
        named = {name.removesuffix("_limit") for name, _ in limited.search}
        return {name: limit for name, limit in limits.items() if name in named or name in own}

    def find_cost(self, name: str | None) -> str | None:
        """Return the cost that `--pareto-cost` names; None if it was not given.

        Raises:
            ConfigError: the cost is neither built-in nor in the settings.
        """
        if name is not None and name not in (kinds := self._load().cost_kinds):
            from spos_cli.config.costs import suggest_cost

            raise ConfigError(f"--pareto-cost {name}: {suggest_cost(name, kinds)}")
        return name

    def make_run(self, settings: Config) -> Run:
        """Return the run of this command, as the stages take it.

        Raises:
            ConfigError: both `--fresh` and `--extend` are given.
        """
        from spos_cli.run.command import Run

        if self.fresh and self.extend:
            raise ConfigError("--fresh starts over and --extend goes on; give one of them")

        return Run(settings, self.fresh, self.mirrors, self.extend, flags=self.flags, as_json=self.as_json)

    def find_folder_for(self, weights: Path) -> RunFolder:
        """Return the run folder for results about a weights file.

        It is the folder that `--config` and `--run-dir` lead to; without them, the one in which the file was made.

        Raises:
            ConfigError: as in `load`.
        """
        from spos_cli.run.folder import RunFolder, find_run

        made_in = find_run(weights) if self.config is None and self.run_dir is None else None
        return made_in or RunFolder(self._load().folder)

    def _settings(self) -> list[CliOption]:
        """Return the settings that were given by their own option."""
        from spos_cli.config.loading import CliOption

        given = [(name, name, getattr(self, name)) for name in ("run_dir", "devices", "seed", "max_restarts")]
        given += [("channels_of", "space.channels_of", self.channels_of)]
        given += [(name, f"search.{name}", value) for name, value in self.search]
        given.append(("image_size", "space.image_size", self.image_side))
        named = [(f"--{name.replace('_', '-')}", key, value) for name, key, value in given if value is not None]
        limits = [
            CliOption("--limit", f"search.limits.{name}", value, f"--limit {name}={value}")
            for name, value in self.limits
        ]
        return [*(CliOption(name, key, value) for name, key, value in named), *limits]

    def _overrides_root(self) -> bool:
        return any(override.partition("=")[0].strip() == "data.root" for override in self.overrides or ())

    def _all_overrides(self) -> list[str | CliOption]:
        """Return the overrides of `--set` and of other options; a new image size becomes the only one of the space."""
        from spos_cli.config import loading

        overrides = [*(self.overrides or ()), *self._settings()]
        keys = set(map(loading.get_key, overrides))
        if loading.IMAGE_SIZE in keys and loading.IMAGE_SIZES not in keys:
            overrides.append(loading.CliOption("--image-size", ".".join(loading.IMAGE_SIZES), []))
        return overrides

    def _load(self) -> Config:
        from spos_cli.config import loading

        return loading.load(loading.find_config(self.config), self._all_overrides())

    def _print_if_asked(self, settings: Config) -> Config:
        if self.print_config:
            is_utf8 = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
            print(settings.to_yaml(ascii_only=not is_utf8), end="")
            raise typer.Exit
        return settings


def shared_options(*more: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options `--config`, `--set`, `--run-dir`, `--print-config` and `more`, as one `Options`.

    Typer reads the options of a command from its signature. This gives it a signature whose last parameters are fields
    of `Options`. The command itself takes their values as its first parameter.

    Args:
        more: names of fields of `Options`.
    """
    names = [
        one.name for one in fields(Options) if one.name in {"config", "overrides", "run_dir", "print_config", *more}
    ]
    kind = inspect.Parameter.KEYWORD_ONLY
    types = get_type_hints(Options, include_extras=True)

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def called_by_typer(**given: Any) -> None:
            options = Options(**{name: given.pop(name) for name in names})
            command(options, **given)

        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        shared = [
            inspect.Parameter(name, kind, default=getattr(Options, name), annotation=types[name]) for name in names
        ]
        called_by_typer.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        return called_by_typer

    return decorate


def require_one_folder(folder: Path | None, run_dir: str | None) -> None:
    """Raise ConfigError if the run folder is named both as RUN_DIR and with `--run-dir`."""
    if folder is not None and run_dir is not None:
        raise ConfigError("RUN_DIR and --run-dir both name the run folder; give one of them")


def require_truth(sample: int | None, truth: Path | None) -> None:
    """Raise ConfigError if `--sample` is given without `--truth`."""
    if sample is not None and truth is None:
        raise ConfigError(
            "--sample is for --truth FILE; set the number of stand-alone trainings with --set audit.architectures=N"
        )


def find_supernet(folder: Path) -> tuple[str, str, list[str]]:
    """Return the same as `find_search`; for a run without a search, of the training of its supernet.

    Raises:
        ConfigError: there is neither in the folder.
    """
    from spos_cli.run.folder import RunFolder

    if RunFolder(folder).search.config.is_file():
        return find_search(folder)
    recorded = RunFolder(folder).supernet.config
    return _find_recorded(
        recorded, folder, f"there is no supernet in {folder}: {recorded} is missing; or name its settings with --config"
    )


def find_search(folder: Path) -> tuple[str, str, list[str]]:
    """Return the `--config` and `--run-dir` of the search in a run folder, and overrides that find its images.

    Raises:
        ConfigError: there is no search in the folder.
    """
    from spos_cli.run.folder import RunFolder

    recorded = RunFolder(folder).search.config
    return _find_recorded(recorded, folder, f"there is no search in {folder}: {recorded} is missing")


def _find_recorded(recorded: Path, folder: Path, missing: str) -> tuple[str, str, list[str]]:
    """Return the settings that a stage of a run has recorded; raise ConfigError with `missing` if it has not."""
    from spos_cli.run.recorded_config import make_root_override

    if not recorded.is_file():
        raise ConfigError(missing)
    return str(recorded), str(folder), make_root_override(recorded, folder)
