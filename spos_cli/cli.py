"""The commands of `spos`. torch is imported when a command runs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from spos_cli import __version__
from spos_cli.arguments import (
    BitopsLimitOption,
    ClassesOption,
    ConvertedWeightsOption,
    CostTemplateOption,
    ExportedPathOption,
    ExportFormatOption,
    ExportOutputOption,
    FlopsLimitOption,
    FolderArgument,
    ImageSizeOption,
    ImportLatencyOption,
    ImportTableOption,
    InitOption,
    JournalOption,
    LatencyBatchOption,
    LatencyLimitOption,
    LatencyOption,
    LatencyTemplateOption,
    NetworkWeightsOption,
    ObjectiveOption,
    OwnLimitOption,
    ParamsLimitOption,
    ParetoCostOption,
    ParetoOption,
    PreferOption,
    QuantizeOption,
    RawInputOption,
    RuntimeOption,
    TopOption,
)
from spos_cli.exits import (
    LOWER_BATCH_SIZES,
    LOWER_BATCH_SIZES_OF_SEARCH,
    RAISE_ACCUMULATE,
    count_images_at_once,
    run_across_processes,
    run_and_exit,
)
from spos_cli.options import Options, find_search, find_supernet, require_one_folder, require_truth, shared_options

app = typer.Typer(
    name="spos",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Single Path One-Shot neural architecture search: train a supernet, search it under a FLOPs limit,"
        " then retrain and evaluate the winner.\n\n"
        "Run the commands in this order: [bold]supernet-train[/], [bold]search[/], [bold]export-arch[/],"
        " [bold]retrain[/], [bold]evaluate[/]. Each one finds the results of the one before it in the run folder."
        " Repeat a command to resume it.\n\n"
        "FLOPs are multiply-adds of convolutions and linear layers, as in the paper (arXiv 1904.00420)."
        " Write sizes as 330M, 0.33G or 330000000.\n\n"
        "Example: spos supernet-train --config demo"
    ),
)

ARCH = "arch.yaml, arch.json, arch.pkl, or a literal: 2,1,0,... or 2@0.8,1@1.4,..."


def show_version(value: bool) -> None:
    """Print the version and exit."""
    if value:
        print(f"spos {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Take the options of `spos` itself."""


@app.command("supernet-train")
@shared_options("channels_of", "devices", "max_restarts", "seed", "tensorboard", "wandb", "mlflow", "fresh", "extend")
def supernet_train(options: Options, init: InitOption = None) -> None:
    """Train the weight-sharing supernet, one path per step.

    Writes supernet/last.pt to the run folder. Repeat the command to resume.

    Example: spos supernet-train --config demo
    """
    settings = options.load()
    from spos_cli.stages import supernet_train as stage

    run_across_processes(
        "supernet-train",
        settings,
        lambda processes: stage.run(options.make_run(settings), processes, init),
        RAISE_ACCUMULATE.format("supernet"),
        images=count_images_at_once(settings.supernet),
        init=init,
        fresh=options.fresh,
    )


@app.command("flops-table")
@shared_options("devices", "seed", "as_json")
def flops_table(
    options: Options,
    arch: Annotated[list[str] | None, typer.Argument(metavar="ARCH", help=ARCH)] = None,
    flops_limit: FlopsLimitOption = None,
    form: Annotated[
        Literal["json", "pkl"],
        typer.Option("--format", help="Format of the table: json, or pkl for the official op_flops_dict.pkl."),
    ] = "json",
    official: ImportTableOption = None,
    latency: LatencyOption = False,
    batch: LatencyBatchOption = 1,
    runtime: RuntimeOption = None,
    template: LatencyTemplateOption = None,
    cost: CostTemplateOption = None,
    measured: ImportLatencyOption = None,
) -> None:
    """Show the FLOPs and parameters of every choice of the space, or of the architectures given.

    Example: spos flops-table 2,1,0,1,2,0,2,0,2,0,2,3,0,0,0,0,3,2,3,3 --json
    """
    limit = options.load_limits(flops_limit=flops_limit).get("flops")
    settings = options.load()
    from spos_cli.stages import flops_table as stage

    files = {"--import": official, "--import-latency": measured}
    templates = {"--latency-template": template, "--cost-template": cost}
    of_table = {"--flops-limit": flops_limit, "--format pkl": form == "pkl"}
    stage.require_one_question(arch or (), {**files, **templates, "--latency": latency}, runtime, of_table)
    run = options.make_run(settings)
    if latency:
        work = partial(stage.measure_latency, run, batch=batch, runtime=runtime or "torch")
        device = stage.use_measured_device(settings, runtime)
        run_across_processes("flops-table", device, work, "lower --latency-batch", images=None, batch=batch)
    else:
        stage.run(run, arch or (), limit, form, official=official, measured=measured, template=template, cost=cost)


@app.command()
@shared_options("devices", "max_restarts", "seed", "tensorboard", "wandb", "mlflow", "fresh", "as_json")
def search(
    options: Options,
    flops: FlopsLimitOption = None,
    params: ParamsLimitOption = None,
    bitops: BitopsLimitOption = None,
    latency: LatencyLimitOption = None,
    own_limits: OwnLimitOption = None,
    objective: ObjectiveOption = None,
    pareto_cost: ParetoCostOption = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Supernet, ours or official. Default: the run folder's."),
    ] = None,
    candidates: JournalOption = None,
) -> None:
    """Search the supernet by evolution, under limits, for the best architecture or the whole Pareto front.

    Scores are written to search/journal.jsonl group by group. Repeat the command to resume.

    Example: spos search --flops-limit 330M
    """
    limits = {"flops_limit": flops, "params_limit": params, "bitops_limit": bitops, "latency_limit": latency}
    options = options.with_limits(own_limits).with_search(**limits, objective=objective, pareto_cost=pareto_cost)
    settings = options.load()
    from spos_cli.engine.evaluation import CPU_BATCH
    from spos_cli.stages import search as stage

    run_across_processes(
        "search",
        settings,
        lambda processes: stage.run(options.make_run(settings), processes, weights, candidates),
        LOWER_BATCH_SIZES_OF_SEARCH,
        images=CPU_BATCH,
        weights=weights,
        candidates=candidates,
        fresh=options.fresh,
    )


@app.command("export-arch")
@shared_options("devices", "seed", "as_json")
def export_arch(
    options: Options,
    top: TopOption = None,
    flops: FlopsLimitOption = None,
    params: ParamsLimitOption = None,
    bitops: BitopsLimitOption = None,
    own_limits: OwnLimitOption = None,
    prefer: PreferOption = "best",
    pareto: ParetoOption = False,
    cost: ParetoCostOption = None,
    journal: JournalOption = None,
    weights: ConvertedWeightsOption = None,
    form: ExportFormatOption = None,
    output: ExportOutputOption = None,
    arch: ExportedPathOption = None,
    raw_input: RawInputOption = False,
    quantize: QuantizeOption = None,
    image_size: ImageSizeOption = None,
) -> None:
    """Write the best scored architectures to archs/<id>/arch.yaml. Nothing is scored again.

    With --weights: convert a supernet or a network to the form that the official code loads, or to ours, or write a
    network for use without spos, such as ONNX. With --arch, too: write a path of a supernet, calibrated, as a network
    that can be used at once.

    Example: spos export-arch --flops-limit 300M --prefer smallest
    """
    limits = options.with_limits(own_limits).load_limits(flops_limit=flops, params_limit=params, bitops_limit=bitops)
    from spos_cli.search.questions import Question
    from spos_cli.stages import export_arch as stage

    question = Question(top, limits, smallest=prefer == "smallest", front=pareto, pareto_cost=options.find_cost(cost))
    stage.require_one_purpose(weights, arch, form, question, journal, output, raw_input, quantize, image_size)
    if form is not None and form in stage.NETWORK_FORMATS:
        export_network(options.with_square_images(image_size), weights, arch, form, output, raw_input, quantize)
        return
    run = options.make_run(options.load())
    if arch is not None:
        stage.export_path(run, weights, arch, form, output)
    elif weights is not None:
        stage.export_weights(run, weights, stage.parse_weights_format(form), output)
    else:
        stage.export_architectures(run, question, journal, stage.parse_arch_format(form))


def export_network(
    options: Options,
    weights: Path | None,
    arch: str | None,
    form: str,
    output: Path | None,
    raw_input: bool,
    quantize: str | None,
) -> None:
    """Write a network for use without spos. Its settings come from the weights file."""
    from spos_cli.run.weights_file import find_weights, read_weights
    from spos_cli.stages import export_network as stage

    stage.require_supernet(arch, weights)
    content = read_weights(weights or find_weights(options.make_run(options.load())))
    run = options.make_run(options.load_for_weights(content.config))
    folder = options.find_folder_for(content.path)
    input_kind: Literal["float", "uint8"] = "float" if raw_input else "uint8"
    stage.export(run, content, arch, form, folder, output, input_kind, int8=quantize == "int8")


@app.command()
@shared_options("devices", "max_restarts", "seed", "tensorboard", "wandb", "mlflow", "fresh", "extend")
def retrain(
    options: Options,
    arch: Annotated[
        str | None, typer.Argument(metavar="ARCH", help=f"{ARCH} Default: the exported architecture.")
    ] = None,
    init: InitOption = None,
) -> None:
    """Train one architecture, from scratch or from the weights of --init.

    Writes retrain/<id>/model.pt to the run folder, with everything that is needed to use it.

    Example: spos retrain runs/imagenet/archs/1f0c6c2b7a/arch.yaml
    """
    settings = options.load()
    from spos_cli.space import architecture
    from spos_cli.stages import retrain as stage

    run_across_processes(
        "retrain",
        settings,
        lambda processes: stage.run(options.make_run(settings), processes, arch, init),
        f"{RAISE_ACCUMULATE.format('retrain')}; for the validation lower search.batch_size",
        images=count_images_at_once(settings.retrain),
        arch=arch and str(architecture.read(arch)),
        init=init,
        fresh=options.fresh,
    )


@app.command()
@shared_options("devices", "seed", "as_json")
def evaluate(
    options: Options,
    weights: NetworkWeightsOption = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="ARCH", help="With a supernet: the architecture to evaluate.")
    ] = None,
    save_logits: Annotated[
        Path | None,
        typer.Option("--save-logits", metavar="FILE.npz", help="Save the logits, labels and paths of all images."),
    ] = None,
    details: Annotated[
        bool,
        typer.Option("--details", help="Also show what goes wrong, by class, and write it to evaluate/."),
    ] = False,
    image_size: ImageSizeOption = None,
    classes: ClassesOption = None,
) -> None:
    """Measure a network on the validation images. Its settings come from the weights file.

    Example: spos evaluate --weights model.pt --set data.root=/data/imagenet
    """
    from spos_cli.engine.evaluation import CPU_BATCH
    from spos_cli.run.weights_file import find_weights, read_weights
    from spos_cli.space import architecture
    from spos_cli.stages import evaluate as stage

    options, size = options.with_image_size(image_size)
    content = read_weights(weights or find_weights(options.make_run(options.load())))
    settings = options.load_for_weights(content.config)
    run = options.make_run(settings)
    folder = options.find_folder_for(content.path) if details else None
    work = partial(stage.run, run, weights=content, arch=arch, save_logits=save_logits, details=folder)
    work = partial(work, image_size=size, class_file=classes)
    same = {"weights": weights, "arch": arch and str(architecture.read(arch)), "details": details, "image_size": size}
    run_across_processes("evaluate", settings, work, LOWER_BATCH_SIZES, images=CPU_BATCH, classes=classes, **same)


@app.command()
@shared_options("devices", "seed", "as_json")
def predict(
    options: Options,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE|FOLDER", help="Image files, and folders whose images are all classified."),
    ],
    weights: NetworkWeightsOption = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="ARCH", help="With a supernet: the architecture to use.")
    ] = None,
    top: Annotated[int, typer.Option("--top", metavar="K", min=1, help="Classes to name for each image.")] = 5,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to this .csv or .jsonl file, not to the screen."),
    ] = None,
    image_size: ImageSizeOption = None,
) -> None:
    """Name the most likely classes of images. The settings come from the weights file.

    With --json: a line of JSON for each image. Images that cannot be read are passed over, and the exit code is 1.

    Example: spos predict photos --weights model.pt --top 3
    """
    from spos_cli.engine.evaluation import CPU_BATCH
    from spos_cli.run.command import use_one_device
    from spos_cli.run.weights_file import find_weights, read_weights
    from spos_cli.stages import predict as stage

    options, size = options.with_image_size(image_size)
    content = read_weights(weights or find_weights(options.make_run(options.load())))
    recorded = options.load_for_weights(content.config, reads_images=arch is not None)
    settings = use_one_device(recorded, "spos predict works on")
    run_across_processes(
        "predict",
        settings,
        lambda processes: stage.run(options.make_run(settings), processes, content, arch, images, top, output, size),
        LOWER_BATCH_SIZES,
        images=CPU_BATCH,
    )


@app.command()
@shared_options("as_json")
def report(options: Options, folder: FolderArgument = None) -> None:
    """Write what a run has found so far to search/report.html: one page that needs no server and no network.

    Nothing is scored again. spos search also writes the page while it runs.

    Example: spos report runs/imagenet
    """
    require_one_folder(folder, options.run_dir)
    if folder is None or options.print_config:
        folder = options.load().folder
    from spos_cli.stages import report as stage

    stage.run(folder, options.as_json)


@app.command()
@shared_options("devices", "max_restarts", "fresh", "as_json")
def audit(
    options: Options,
    folder: FolderArgument = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Supernet of the search. Default: the run folder's."),
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="FILE", help="Known stand-alone accuracies: JSON of NAS-Bench-Macro, or CSV."),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", metavar="N", min=8, help="With --truth: score N networks only, chosen at random."),
    ] = None,
) -> None:
    """Tell how far a search can be trusted: against chance, and against stand-alone trainings.

    Runs random searches of as many candidates, and trains some architectures stand-alone for a tenth of the steps.
    With --truth it trains nothing, but compares the supernet's scores with accuracies that are known already.

    Writes audit/result.json, or truth/result.json. Repeat the command to resume.

    Example: spos audit runs/imagenet --set audit.seeds=3
    """
    require_truth(sample, truth)
    options = options.in_folder(folder, find_search if truth is None else find_supernet)
    settings = options.load()
    from spos_cli.engine.evaluation import CPU_BATCH
    from spos_cli.stages import audit, audit_truth

    stage = audit.run if truth is None else partial(audit_truth.run, truth_file=truth, sample=sample)
    run_across_processes(
        "audit",
        settings,
        lambda processes: stage(options.make_run(settings), processes, weights),
        f"{RAISE_ACCUMULATE.format('retrain')}; for the scores {LOWER_BATCH_SIZES_OF_SEARCH}",
        images=CPU_BATCH,  # as in the search, whose scores the audit continues
        weights=weights,
        fresh=options.fresh,
    )


@app.command()
@shared_options("as_json")
def status(options: Options, folder: FolderArgument = None) -> None:
    """Show the progress of every stage in a run folder, and the next command.

    Writes nothing. You can use it in another terminal while a command runs.

    Example: spos status runs/demo
    """
    from spos_cli.stages import status as stage

    options = options.in_folder(folder, stage.find_settings)
    stage.run(options.make_run(options.load()))


@app.command()
@shared_options("devices", "seed", "as_json")
def doctor(
    options: Options,
    full: Annotated[bool, typer.Option("--full", help="Read all images, not a sample.")] = False,
) -> None:
    """Check settings, images, devices, disk and speed before a long training. Writes nothing.

    Exits with code 2 if a check fails. Each line says what to do.

    Example: spos doctor --config imagenet --full
    """
    settings = options.load()
    from spos_cli.stages import doctor as stage

    stage.run(options.make_run(settings), full)


def main() -> NoReturn:
    """Run a command and end this process with its exit code: the console script `spos`."""
    run_and_exit(_get_click_command())


@functools.cache
def _get_click_command() -> Callable[[], object]:
    """Return the commands as Click has them, which takes Typer a while to build."""
    return typer.main.get_command(app)
