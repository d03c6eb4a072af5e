"""The command line: options, help and how mistakes are shown. torch is imported when a command runs."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from spos_cli import __version__
from spos_cli.errors import ConfigError, SposError

if TYPE_CHECKING:
    from spos_cli.config.schema import Config, TrainingConfig
    from spos_cli.engine.distributed import Processes
    from spos_cli.run.command import Run

app = typer.Typer(
    name="spos",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Single Path One-Shot neural architecture search: train a supernet, search it under a FLOPs limit,"
        " retrain and evaluate the winner.\n\n"
        "The commands in their order: [bold]supernet-train[/], [bold]search[/], [bold]export-arch[/],"
        " [bold]retrain[/], [bold]evaluate[/]. Each finds what the one before it left in the run folder;"
        " the same command again resumes.\n\n"
        "FLOPs are multiply-adds of convolutions and linear layers, as in the paper (arXiv 1904.00420)."
        " Sizes are written 330M, 0.33G or 330000000.\n\n"
        "Example: spos supernet-train --config demo"
    ),
)

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="YAML file, or the name of a shipped recipe. Default: ./spos.yaml, else imagenet.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as supernet.lr=0.1. Repeatable."),
]
RunDirOption = Annotated[
    str | None, typer.Option("--run-dir", metavar="DIR", help="Folder of the run. Default: runs/<name>.")
]
DevicesOption = Annotated[
    str | None,
    typer.Option("--devices", metavar="N|auto|cpu", help="Number of processes, auto (all GPUs) or cpu."),
]
RestartsOption = Annotated[
    int | None,
    typer.Option("--max-restarts", metavar="N", help="How often to start again after a process of N was killed."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of every random draw.")]
PrintConfigOption = Annotated[
    bool, typer.Option("--print-config", help="Print the resolved settings as YAML and stop.")
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Start over; what was there is kept under another name.")]
TensorboardOption = Annotated[
    bool, typer.Option("--tensorboard", help="Mirror the metrics for TensorBoard, in the stage's folder.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for scripts.")]
FolderArgument = Annotated[
    Path | None, typer.Argument(metavar="[RUN_DIR]", help="Folder of the run. Default: that of the settings.")
]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE", help="Scored candidates: a journal.jsonl, or a published checkpoint.pth.tar."
    ),
]
LimitOption = Annotated[str | None, typer.Option("--flops-limit", metavar="SIZE", help="Largest FLOPs, such as 330M.")]
ParamsLimitOption = Annotated[
    str | None, typer.Option("--params-limit", metavar="SIZE", help="Largest number of parameters, e.g. 3M.")
]


def version(value: bool) -> None:
    """Prints the version and stops."""
    if value:
        print(f"spos {__version__}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of `spos` itself."""


class Options:
    """The common options of one command, and what they lead to."""

    def __init__(
        self,
        config: str | None,
        overrides: list[str] | None,
        run_dir: str | None,
        devices: str | None,
        seed: int | None,
        print_config: bool,
        fresh: bool = False,
        as_json: bool = False,
        max_restarts: int | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.tensorboard = tensorboard
        self.config, self.fresh, self.as_json, self.print_config = config, fresh, as_json, print_config
        self.overrides = list(overrides or [])
        named = {"run_dir": run_dir, "devices": devices, "seed": seed, "max_restarts": max_restarts}
        self.options = [("--" + key.replace("_", "-"), key, value) for key, value in named.items() if value is not None]

    @property
    def flags(self) -> str:
        """The options that lead to the same settings in any command.

        One that not all commands have, such as `--seed` or `--flops-limit`, is written as `--set`.
        """
        from spos_cli.files.quoting import as_override

        typed: list[tuple[str, object]] = [("--config", self.config)] if self.config is not None else []
        typed += [("--set", override) for override in self.overrides]
        for name, key, value in self.options:
            typed.append((name, value) if key == "run_dir" else ("--set", as_override(key, value)))
        return " ".join(f"{name} {shlex.quote(str(value))}" for name, value in typed)

    def load(self, *, search: dict[str, str] | None = None, weights: dict[str, Any] | None = None) -> Config:
        """The resolved settings.

        Args:
            search: its settings that have an option of their own, where that was given.
            weights: settings of a weights file; they say how images are prepared, `--config` only where they are.
        """
        from spos_cli.config import identity, loading

        if self.tensorboard:
            from spos_cli.engine.scalars import require_tensorboard

            require_tensorboard()
        for name, value in (search or {}).items():
            self.options.append(("--" + name.replace("_", "-"), f"search.{name}", value))
        options = [loading.CliOption(*option) for option in self.options]
        overrides: list[str | loading.CliOption] = [*self.overrides, *options]
        origin = "the settings in the weights file"
        if weights is not None:  # it may come from anywhere: it has no say in where and on what we work
            weights = identity.without_machine(weights)
        if weights is None:
            settings = loading.load(loading.find_config(self.config), overrides)
        elif self.config is None:
            settings = loading.validate(weights, overrides, origin=origin)
            if not any(override.partition("=")[0].strip() == "data.root" for override in self.overrides):
                settings.require_root_here(origin)
        else:
            theirs = loading.load(loading.find_config(self.config), overrides)
            settings = identity.with_images_of(loading.validate(weights, overrides, origin=origin), theirs)
        if weights is not None and settings.own_blocks:
            settings.require_known_blocks(loading.load(loading.find_config(self.config)).own_blocks, origin)
        if self.print_config:
            print(settings.to_yaml(), end="")
            raise typer.Exit
        return settings

    def run(self, settings: Config) -> Run:
        """The command, as the stages take it."""
        from spos_cli.run.command import Run

        return Run(settings, self.flags, self.as_json, self.fresh, self.tensorboard)


def require_one_name(folder: Path | None, run_dir: str | None) -> None:
    """Raises ConfigError if the run folder is named as RUN_DIR and with --run-dir."""
    if folder is not None and run_dir is not None:
        raise ConfigError("RUN_DIR and --run-dir name the same thing; give one of them")


# What to do where the memory of a GPU is too small.
ACCUMULATE = "raise {}.accumulate: the batch of a step stays as it is"
SMALLER_BATCHES = "lower search.batch_size and search.calibration_batch_size"


def across_processes(
    command: str,
    settings: Config,
    work: Callable[[Processes], None],
    too_large: str,
    *,
    images: int | None,
    **arguments: object,
) -> None:
    """Does the work in this process, or starts as many as the settings ask for, each with this command line.

    Args:
        command: that is run; with the settings and versions, all processes have to agree on it.
        too_large: what to do if the work does not fit into the memory of a GPU.
        images: that each process works on at once, which tells how many CPU threads are worth it; None for all.
        arguments: of the command, to agree on as well. Of a file it is the content that counts.

    Raises:
        ConfigError: it does not fit, or the processes do not agree.
    """
    import torch

    from spos_cli.config.identity import shared_settings
    from spos_cli.engine import accelerator, distributed

    count = distributed.wanted(settings.devices)
    if count > 1 and not distributed.launched():
        accelerator.require_usable(settings.devices)  # else each of them would say it
        distributed.launch(count, sys.argv[1:], settings.max_restarts, lambda text: print(text, file=sys.stderr))
        return
    timeout = timedelta(minutes=settings.timeout_minutes)
    same: dict[str, object] = {}
    if distributed.launched():
        read = {name: _content(value) if isinstance(value, Path) else value for name, value in arguments.items()}
        versions = {"spos": __version__, "torch": str(torch.__version__)}
        same = {"command": command, "versions": versions, **shared_settings(settings), "arguments": read}
    try:
        layer = None if images is None else images * settings.space.build().work_per_layer
        with distributed.join(settings.devices, settings.threads, timeout, same, layer) as processes:
            work(processes)
    except torch.OutOfMemoryError as error:
        full = ". ".join(str(error).split(". ")[:3])  # what, how much was wanted, how much there is; then numbers
        raise ConfigError(f"{full}; {too_large}") from None


def _at_once(training: TrainingConfig) -> int:
    """Images that each process of a training works on at once."""
    from spos_cli.engine import distributed

    parts = training.accumulate * distributed.processes_in_all()
    return max(1, training.batch_size // parts)


def _content(path: Path) -> str:
    """What a file that is named on the command line holds, in short; its name where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return str(path)


@app.command("supernet-train")
def supernet_train(
    config: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    devices: DevicesOption = None,
    max_restarts: RestartsOption = None,
    seed: SeedOption = None,
    print_config: PrintConfigOption = False,
    tensorboard: TensorboardOption = False,
    fresh: FreshOption = False,
) -> None:
    """Train the weight-sharing supernet, sampling one path per step.

    Leaves supernet/last.pt in the run folder; the same command again resumes from there.

    Example: spos supernet-train --config demo
    """
    options = Options(
        config,
        overrides,
        run_dir,
        devices,
        seed,
        print_config,
        fresh,
        max_restarts=max_restarts,
        tensorboard=tensorboard,
    )
    settings = options.load()
    from spos_cli.stages import supernet_train as stage

    across_processes(
        "supernet-train",
        settings,
        lambda processes: stage.run(options.run(settings), processes),
        ACCUMULATE.format("supernet"),
        images=_at_once(settings.supernet),
        fresh=fresh,
    )


@app.command("flops-table")
def flops_table(
    arch: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ARCH]...", help="arch.yaml, arch.json, arch.pkl, or a literal: 2,1,0,... or 2@0.8,1@1.4,..."
        ),
    ] = None,
    flops_limit: LimitOption = None,
    form: Annotated[
        Literal["json", "pkl"],
        typer.Option("--format", help="Of the file: pkl is the published op_flops_dict.pkl."),
    ] = "json",
    published: Annotated[
        Path | None,
        typer.Option(
            "--import", metavar="FILE", help="A published op_flops_dict.pkl, to compare with what is measured."
        ),
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Measure the latency of every choice on this device instead.")
    ] = False,
    latency_batch: Annotated[int, typer.Option("--latency-batch", min=1, help="Images of a measured call.")] = 1,
    config: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    devices: DevicesOption = None,
    seed: SeedOption = None,
    print_config: PrintConfigOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the FLOPs and parameters of every choice of the space, or of architectures.

    Example: spos flops-table 2,1,0,1,2,0,2,0,2,0,2,3,0,0,0,0,3,2,3,3 --json
    """
    options = Options(config, overrides, run_dir, devices, seed, print_config, as_json=as_json)
    settings = options.load()
    from spos_cli.space.cost import parse_cost
    from spos_cli.stages import flops_table as stage

    if published is not None:
        if arch:
            raise ConfigError("--import compares the whole table; leave the architectures away")
        stage.compare(options.run(settings), published)
        return
    if latency:
        if arch:
            raise ConfigError("--latency measures the whole space; leave the architectures away")
        if settings.devices not in ("auto", "cpu", 1):
            raise ConfigError(f"--latency measures one device, and devices is {settings.devices}; use --devices 1")
        run, alone = options.run(settings), settings
        if settings.devices == "auto":
            alone = settings.model_copy(update={"devices": 1})  # of several GPUs the first
        across_processes(
            "flops-table",
            alone,
            lambda processes: stage.measure_latency(run, processes, latency_batch),
            "lower --latency-batch",
            images=None,
            latency_batch=latency_batch,
        )
        return
    stage.run(options.run(settings), arch or [], parse_cost(flops_limit) if flops_limit else None, form)


@app.command()
def search(
    flops_limit: LimitOption = None,
    params_limit: ParamsLimitOption = None,
    latency_limit: Annotated[
        str | None,
        typer.Option(
            "--latency-limit", metavar="TIME", help="Largest latency, e.g. 12ms, by spos flops-table --latency."
        ),
    ] = None,
    objective: Annotated[
        Literal["accuracy", "pareto"] | None,
        typer.Option("--objective", help="accuracy: the best (default); pareto: the front of FLOPs and top-1."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Supernet, ours or published. Default: the run folder's."),
    ] = None,
    earlier: FromOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    devices: DevicesOption = None,
    max_restarts: RestartsOption = None,
    seed: SeedOption = None,
    print_config: PrintConfigOption = False,
    tensorboard: TensorboardOption = False,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search the supernet by evolution, under a FLOPs limit, for the best or for the whole front.

    Scores go to search/journal.jsonl group by group; the same command again goes on from there.

    Example: spos search --flops-limit 330M
    """
    options = Options(
        config,
        overrides,
        run_dir,
        devices,
        seed,
        print_config,
        fresh,
        as_json,
        max_restarts=max_restarts,
        tensorboard=tensorboard,
    )
    given = {
        "flops_limit": flops_limit,
        "params_limit": params_limit,
        "latency_limit": latency_limit,
        "objective": objective,
    }
    settings = options.load(search={name: value for name, value in given.items() if value is not None})
    from spos_cli.engine.evaluation import CPU_BATCH
    from spos_cli.stages import search as stage

    across_processes(
        "search",
        settings,
        lambda processes: stage.run(options.run(settings), processes, weights, earlier),
        SMALLER_BATCHES,
        images=CPU_BATCH,
        weights=weights,
        earlier=earlier,
        fresh=fresh,
    )


@app.command("export-arch")
def export_arch(
    top: Annotated[
        int | None, typer.Option("--top", min=1, metavar="K", help="How many of the best. Default: 1.")
    ] = None,
    flops_limit: LimitOption = None,
    params_limit: ParamsLimitOption = None,
    prefer: Annotated[
        Literal["best", "smallest"],
        typer.Option("--prefer", help="smallest: the cheapest of those that a paired test cannot tell from the best."),
    ] = "best",
    pareto: Annotated[
        bool, typer.Option("--pareto", help="All that no other one beats in both FLOPs and top-1.")
    ] = False,
    source: FromOption = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Write these weights in another form, and no architecture."),
    ] = None,
    form: Annotated[
        Literal["yaml", "pkl", "published", "spos"] | None,
        typer.Option(
            "--format",
            help="yaml (default), or pkl for the published arch.pkl beside it; with --weights: published, or spos.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="With --weights: the file to write.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    devices: DevicesOption = None,
    seed: SeedOption = None,
    print_config: PrintConfigOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the best architectures of the search to archs/<id>/arch.yaml. Nothing is scored again.

    With --weights it writes a supernet or a network in the form that the published scripts load, or in ours.

    Example: spos export-arch --flops-limit 300M --prefer smallest
    """
    options = Options(config, overrides, run_dir, devices, seed, print_config, as_json=as_json)
    settings = options.load()
    from spos_cli.space.cost import parse_cost
    from spos_cli.stages import export_arch as stage

    if weights is not None:
        stage.export_weights(options.run(settings), weights, stage.weights_format(form), output)
        return
    flops, params = (parse_cost(limit) if limit else None for limit in (flops_limit, params_limit))
    question = stage.Question(top, flops, params, smallest=prefer == "smallest", front=pareto)
    stage.run(options.run(settings), question, source, stage.arch_format(form))


@app.command()
def retrain(
    arch: Annotated[
        str | None,
        typer.Argument(
            metavar="[ARCH]",
            help="arch.yaml, arch.json, arch.pkl, or a literal: 2,1,0,... or 2@0.8,1@1.4,..."
            " Default: the exported one.",
        ),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    devices: DevicesOption = None,
    max_restarts: RestartsOption = None,
    seed: SeedOption = None,
    print_config: PrintConfigOption = False,
    tensorboard: TensorboardOption = False,
    fresh: FreshOption = False,
) -> None:
    """Train one architecture from scratch.

    Leaves retrain/<id>/model.pt in the run folder, with all that is needed to use it.

    Example: spos retrain runs/imagenet/archs/1f0c6c2b7a/arch.yaml
    """
    options = Options(
        config,
        overrides,
        run_dir,
        devices,
        seed,
        print_config,
        fresh,
        max_restarts=max_restarts,
        tensorboard=tensorboard,
    )
    settings = options.load()
    from spos_cli.space import architecture
    from spos_cli.stages import retrain as stage

    across_processes(
        "retrain",
        settings,
        lambda processes: stage.run(options.run(settings), processes, arch),
        f"{ACCUMULATE.format('retrain')}; for the validation lower search.batch_size",
        images=_at_once(settings.retrain),
        arch=arch and str(architecture.read(arch)),
        fresh=fresh,
    )


@app.command()
def evaluate(
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            metavar="FILE",
            help="A retrained model.pt or a supernet's checkpoint, ours or published. Default: the run folder's model.",
        ),
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="ARCH", help="The path of a supernet to evaluate.")
    ] = None,
    save_logits: Annotated[
        Path | None, typer.Option("--save-logits", metavar="FILE.npz", help="Keep logits, labels and paths.")
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    devices: DevicesOption = None,
    seed: SeedOption = None,
    print_config: PrintConfigOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a network on the validation images. Its settings come out of the weights file.

    Example: spos evaluate --weights model.pt --set data.root=/data/imagenet
    """
    options = Options(config, overrides, run_dir, devices, seed, print_config, as_json=as_json)
    from spos_cli.engine.evaluation import CPU_BATCH
    from spos_cli.run.weights_file import read_weights
    from spos_cli.space import architecture
    from spos_cli.stages import evaluate as stage

    content = read_weights(weights or stage.find_weights(options.run(options.load())))
    settings = options.load(weights=content.config)
    across_processes(
        "evaluate",
        settings,
        lambda processes: stage.run(options.run(settings), processes, content, arch, save_logits),
        SMALLER_BATCHES,
        images=CPU_BATCH,
        weights=weights,
        arch=arch and str(architecture.read(arch)),
    )


@app.command()
def report(
    folder: FolderArgument = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    print_config: PrintConfigOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write what a run has found so far to search/report.html: one page that needs no server and no network.

    Nothing is scored again. spos search writes it, too, while it runs.

    Example: spos report runs/imagenet
    """
    require_one_name(folder, run_dir)
    options = Options(config, overrides, run_dir, None, None, print_config, as_json=as_json)
    if folder is None or print_config:
        folder = options.load().folder
    from spos_cli.stages import report as stage

    stage.run(folder, as_json)


@app.command()
def audit(
    folder: FolderArgument = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Supernet of the search. Default: the run folder's."),
    ] = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    devices: DevicesOption = None,
    max_restarts: RestartsOption = None,
    print_config: PrintConfigOption = False,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tell how far a search can be trusted: against chance, and against networks that are trained alone.

    Random searches of as many candidates; what became of each operator's draws; Kendall's tau between the supernet and
    architectures that are trained alone, at a tenth of the retraining's budget. Leaves audit/result.json; the same
    command again goes on from where it was stopped.

    Example: spos audit runs/imagenet --set audit.seeds=3
    """
    require_one_name(folder, run_dir)
    if folder is not None:
        from spos_cli.run.command import root_from_here

        kept = folder / "search" / "config.yaml"
        if config is None and not kept.is_file():
            raise ConfigError(f"there is no search in {folder}: {kept} is missing")
        if config is None:
            overrides = [*root_from_here(kept, folder), *(overrides or [])]
        run_dir, config = str(folder), config or str(kept)
    options = Options(
        config, overrides, run_dir, devices, None, print_config, fresh, as_json, max_restarts=max_restarts
    )
    settings = options.load()
    from spos_cli.engine.evaluation import CPU_BATCH
    from spos_cli.stages import audit as stage

    across_processes(
        "audit",
        settings,
        lambda processes: stage.run(options.run(settings), processes, weights),
        f"{SMALLER_BATCHES}, or {ACCUMULATE.format('retrain')}",
        images=CPU_BATCH,  # as in the search, whose scores it goes on from
        weights=weights,
        fresh=fresh,
    )


@app.command()
def status(
    folder: FolderArgument = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    print_config: PrintConfigOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what runs or stands where in a run folder, and which command comes next. Writes nothing.

    It can be asked from another terminal while a command runs.

    Example: spos status runs/demo
    """
    from spos_cli.run.command import Command
    from spos_cli.stages import status as stage

    require_one_name(folder, run_dir)
    if folder is not None:
        if config is not None:
            run_dir = str(folder)
        else:
            config, run_dir, here = stage.find(folder)
            overrides = [*here, *(overrides or [])]
    options = Options(config, overrides, run_dir, None, None, print_config)
    stage.run(Command(options.load(), options.flags, as_json))


@app.command()
def doctor(
    full: Annotated[bool, typer.Option("--full", help="Read all images, not a sample.")] = False,
    config: ConfigOption = None,
    overrides: SetOption = None,
    run_dir: RunDirOption = None,
    devices: DevicesOption = None,
    seed: SeedOption = None,
    print_config: PrintConfigOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check settings, images, devices, disk and speed before a long training. Writes nothing.

    Ends with exit code 2 if a check fails; each line says what to do.

    Example: spos doctor --config imagenet --full
    """
    options = Options(config, overrides, run_dir, devices, seed, print_config, as_json=as_json)
    settings = options.load()
    from spos_cli.stages import doctor as stage

    stage.run(options.run(settings), full)


def main() -> NoReturn:
    """The console script: runs a command and ends with its exit code."""
    try:
        code = _run()
    except Exception:  # a bug
        if not _is_launched():
            raise
        sys.excepthook(*sys.exc_info())
        code = 1
    if _is_launched():
        # All is written. Threads of gloo and NCCL that the interpreter's end meets half dead can abort the process, and
        # where it has failed, NCCL can make it wait for the others.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _is_launched() -> bool:
    """Whether this is one of several processes, which may have met the others already."""
    distributed = sys.modules.get("spos_cli.engine.distributed")
    return distributed is not None and bool(distributed.launched())


def _run() -> int:
    try:
        app(standalone_mode=True)
    except SposError as error:
        return _fail(error)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        return code
    return 0


def _exit_code(error: Exception) -> int | None:
    """The exit code of an error that is neither a mistake of the user nor a bug."""
    from spos_cli.engine.interrupt import Interrupted

    if isinstance(error, Interrupted):
        same = "the same command without --fresh" if "--fresh" in sys.argv else "the same command"
        print(f"stopped by {error}; all is saved, and {same} goes on from here", file=sys.stderr)
        return 128 + error.number
    if isinstance(error, OSError) and error.filename is not None:  # a name or a right that no check has foreseen
        _say(SposError(f"{error.strerror}: {error.filename!s:.200}"))
        return 2
    distributed = sys.modules.get("spos_cli.engine.distributed")
    if distributed is not None and isinstance(error, distributed.WorkersFailed):
        for message in error.messages:
            print(f"error: {message}", file=sys.stderr)
        return int(error.exit_code)
    if distributed is not None and isinstance(error, distributed.PeerLost):
        if error.silent:  # else the other one says it
            _say(error)
        return 1
    return None


def _fail(error: SposError) -> int:
    """Shows a mistake of the user."""
    _say(error)
    return 2


def _say(error: Exception) -> None:
    """Shows an error: by the launcher if one has started this process, else here."""
    distributed = sys.modules.get("spos_cli.engine.distributed")
    if distributed is None or not distributed.report_failure(error):
        many = isinstance(error, ConfigError) and "\n" in str(error)
        print(f"error:{chr(10) if many else ' '}{error}", file=sys.stderr)
