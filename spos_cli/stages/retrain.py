"""`spos retrain`: train one architecture, from scratch or from inherited weights."""

from __future__ import annotations

from pathlib import Path

from spos_cli.engine.distributed import Processes
from spos_cli.files.quoting import quote_path
from spos_cli.models.counting import count
from spos_cli.models.network import Network
from spos_cli.run.command import Run
from spos_cli.run.folder import TrainingFolder, require_only_one
from spos_cli.run.images import Images
from spos_cli.run.inherited_weights import Inherited, read_inherited
from spos_cli.run.stand_alone import StandAlone, train_stand_alone
from spos_cli.run.teacher import read_teacher
from spos_cli.run.training import require_batch
from spos_cli.space.architecture import Architecture, read
from spos_cli.space.cost_kinds import format_cost


def run(run: Run, processes: Processes, arch: str | None, init: Path | None = None) -> None:
    """Write `retrain/<id>/model.pt`, or resume from `last.pt` there.

    Args:
        arch: a literal or a file. None, or an empty text: that of the network in `init`, or else the only architecture
            that was exported.
        init: a file with the weights to begin with: of a supernet, or of a network of the same architecture.

    Raises:
        SposError: the architecture, the data, the settings or an earlier checkpoint do not allow it.
    """
    config, training = run.config, run.config.retrain
    inherited = None if init is None else read_inherited(init, processes, run)
    space = config.space.build()
    architecture = choose_architecture(run, arch, inherited)
    space.validate(architecture)
    space_at_size = config.at_size(architecture.image_size).space.build()
    require_batch(space_at_size, training, processes.world_size, "retrain")  # It fails before any work.
    images = Images(config, processes).at_size(architecture.image_size)
    images.check()
    teacher = read_teacher(config, images, processes)
    images.warn_of_small_shared_memory(training)
    if inherited is not None:  # It fails before --fresh moves anything.
        inherited.fill(Network(space, architecture, training.affine), config, images.val.classes)
    folder = run.folder.retrain(architecture.id)
    with run.working_in(folder, processes):
        flops = count(space).flops.of(architecture)
        if processes.is_main:
            indices, _ = images.splits
            begin = "from scratch" if init is None else f"from the weights of {init}"
            if training.teacher is not None:
                begin += f" with the teacher {training.teacher.weights}"
            run.say(f"training {architecture} ({format_cost(flops)} FLOPs) {begin} on {len(indices):,} images")
        trained = train_stand_alone(run, processes, architecture, images, folder, inherited, teacher)
    if processes.is_main:
        show(run, architecture, flops, trained, folder)


def choose_architecture(run: Run, arch: str | None, inherited: Inherited | None) -> Architecture:
    """Return the architecture that ARCH names, else that of the inherited network, else the exported one.

    Raises:
        ArchitectureError: ARCH cannot be read.
        RunError: there is no exported architecture, or there are several.
    """
    if arch:
        return read(arch)
    if inherited is not None and not inherited.is_path:
        return inherited.weights.find_architecture(run.config)
    return read(str(require_only_one(run.folder.list_exported_archs(), "arch.yaml", run.command("export-arch"))))


def show(run: Run, architecture: Architecture, flops: int, trained: StandAlone, folder: TrainingFolder) -> None:
    """Show the accuracy and the next command."""
    accuracy, validation, steps = trained.accuracy, trained.validation, run.config.retrain.steps
    ended_early = [("steps", f"{trained.steps:,} of {steps:,}: ended early")] if trained.steps < steps else []
    best: list[tuple[str, object]] = []
    if run.config.retrain.keep_best and folder.best.is_file() and validation.evaluations > 1:
        evaluations = f"{validation.evaluations} evaluations on these images, so optimistic"
        top1 = f"{validation.best_top1:.2%} at step {validation.best_step:,}, the best of {evaluations}"
        best = [("best top-1 in training", top1), ("its weights", folder.best)]
    rows = [
        ("architecture", architecture),
        ("FLOPs", format_cost(flops)),
        *ended_early,
        ("validation top-1", f"{accuracy.top1:.2%}"),
        ("validation top-5", f"{accuracy.top5:.2%}"),
        ("validation images", f"{accuracy.images:,}"),
        ("model", folder.model),
        *best,
    ]
    run.show("retrained", ["what:", "value:"], rows)
    run.next(f"evaluate --weights {quote_path(folder.model)}")
