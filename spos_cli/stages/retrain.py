"""`spos retrain`: train one architecture from scratch."""

from __future__ import annotations

from spos_cli.engine.distributed import Processes
from spos_cli.engine.metrics import Accuracy
from spos_cli.files.quoting import quote_path
from spos_cli.models.counting import count
from spos_cli.run.command import Run
from spos_cli.run.folder import TrainingFolder, require_only_one
from spos_cli.run.images import Images
from spos_cli.run.stand_alone import train_stand_alone
from spos_cli.run.training import require_batch
from spos_cli.space.architecture import Architecture, read
from spos_cli.space.cost import format_cost


def run(run: Run, processes: Processes, arch: str | None) -> None:
    """Write `retrain/<id>/model.pt`, or resume from `last.pt` there.

    Args:
        arch: a literal or a file. None, or an empty text: the only architecture that was exported.

    Raises:
        SposError: the architecture, the data, the settings or an earlier checkpoint do not allow it.
    """
    config, training = run.config, run.config.retrain
    if not arch:
        arch = str(require_only_one(run.folder.list_exported_archs(), "arch.yaml", run.command("export-arch")))
    architecture = read(arch)
    space = config.space.build()
    require_batch(space, training, processes.world_size, "retrain")  # It fails before any work.
    space.validate(architecture)
    images = Images(config, processes)
    images.check()
    images.warn_of_small_shared_memory(training)
    folder = run.folder.retrain(architecture.id)
    with run.working_in(folder, processes):
        flops = count(space).flops.of(architecture)
        if processes.is_main:
            indices, _ = images.splits
            run.say(f"training {architecture} ({format_cost(flops)} FLOPs) from scratch on {len(indices):,} images")
        accuracy = train_stand_alone(run, processes, architecture, images, folder)
    if processes.is_main:
        show(run, architecture, flops, accuracy, folder)


def show(run: Run, architecture: Architecture, flops: int, accuracy: Accuracy, folder: TrainingFolder) -> None:
    """Show the accuracy and the next command."""
    rows = [
        ("architecture", architecture),
        ("FLOPs", format_cost(flops)),
        ("validation top-1", f"{accuracy.top1:.2%}"),
        ("validation top-5", f"{accuracy.top5:.2%}"),
        ("validation images", f"{accuracy.images:,}"),
        ("model", folder.model),
    ]
    run.show("retrained", ["what:", "value:"], rows)
    run.next(f"evaluate --weights {quote_path(folder.model)}")
