"""`spos supernet-train`: train the weight-sharing supernet, one path per step."""

from __future__ import annotations

import json
from pathlib import Path

from spos_cli.config.identity import portable_settings, training_identity
from spos_cli.data.identity import TrainedOn
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import warn
from spos_cli.engine.trainer import Trainer
from spos_cli.files.writing import write_atomically
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.run.command import Run
from spos_cli.run.image_comparison import make_image_record, require_same_images
from spos_cli.run.images import Images
from spos_cli.run.inherited_weights import Inherited, name_inherited, read_inherited
from spos_cli.run.output import arrange_by_choice
from spos_cli.run.training import (
    make_mixing,
    make_sampler,
    make_training_plan,
    make_weights_seed,
    require_batch,
    warn_of_guessing,
)
from spos_cli.space.architecture import format_width
from spos_cli.space.bits import format_bits
from spos_cli.space.cost_kinds import format_cost
from spos_cli.space.sampling import CostBinSampler, DrawCounts, Sampler, count_draws
from spos_cli.space.search_space import SearchSpace


def run(run: Run, processes: Processes, init: Path | None = None) -> None:
    """Write `supernet/last.pt`, or resume from there.

    Args:
        init: the checkpoint of another supernet with the same blocks, whose weights to begin with.

    Raises:
        SposError: the data, the settings or an earlier checkpoint do not allow it.
    """
    config, training = run.config, run.config.supernet
    space = config.space.build()
    require_batch(space, training, processes.world_size, "supernet")  # It fails before any work.
    sampler = make_sampler(run, space)
    if processes.is_main and isinstance(sampler, CostBinSampler) and (idle := sampler.explain_unreachable_bins()):
        warn(f"{idle}; change supernet.flops_bins")
    images = Images(config, processes)
    images.check()
    images.warn_of_small_shared_memory(training)
    inherited = None if init is None else read_inherited(init, processes, run)
    if inherited is not None:  # It fails before --fresh moves anything.
        inherited.fill(Supernet(space, training.affine), config, images.train.classes)
    with run.working_in(run.folder.supernet, processes):
        images.require_readable_held_out(run.folder.supernet.held_out)
        train(run, processes, space, sampler, images, inherited)


def train(
    run: Run,
    processes: Processes,
    space: SearchSpace,
    sampler: Sampler,
    images: Images,
    inherited: Inherited | None,
) -> None:
    """Train from the last checkpoint, or from the start, to the end."""
    config, training, folder = run.config, run.config.supernet, run.folder.supernet
    indices, held_out = images.splits
    supernet = build_initialized(
        lambda: Supernet(space, training.affine, training.dropout), make_weights_seed(config, "supernet")
    )
    if inherited is not None and inherited.fill(supernet, config, images.train.classes) and processes.is_main:
        warn(inherited.describe_new_classifier(images.train.classes))
    trainer = Trainer(
        supernet,
        make_training_plan(training, images),
        processes,
        name="supernet",
        folder=folder.path,
        identity={
            "kind": "supernet",
            "recipe": training_identity(config, "supernet"),
            **name_inherited(inherited),
        },
        extra={
            "config": portable_settings(config),
            **TrainedOn.content(make_image_record(images, val=False), images.train, held_out),
        },
        require=lambda content, what: require_same_images(images, content.get("images"), what, val=False),
        seed=config.seed,
        preprocess=images.preprocess,
        mixing=make_mixing(config, training),
        paths=sampler.paths,
        mirrors=run.mirrors,
        extend=run.extend,
        one_path=len(sampler.paths(0)) == 1,
    )
    if processes.is_main:
        rest = f" ({len(held_out):,} more are held out for the search)" if len(held_out) else ""
        run.say(
            f"training a supernet of {space.size:,} architectures on {len(indices):,} images of"
            f" {images.train.name}{rest}" + ("" if inherited is None else f", from {inherited.weights.path}")
        )
    trainer.resume()
    run.record_config(folder, processes)
    trainer.train(lambda step: images.batches(indices, training, step, training.steps))
    if processes.is_main:
        show(run, trainer)
        show_trained(run, space, count_draws(sampler, training.steps, space.options))
        warn_of_guessing(folder, config, "supernet")
        run.next("search")


def show(run: Run, trainer: Trainer) -> None:
    """Show the last metrics."""
    last = trainer.metrics.last_training_line()
    rows = [
        ("steps", trainer.step),
        ("training loss", f"{last.get('loss', float('nan')):.3f}"),
        ("training top-1", f"{last.get('top1', float('nan')):.1%}"),
        ("parameters", format_cost(sum(p.numel() for p in trainer.model.parameters()))),
        ("weights", run.folder.supernet.last),
    ]
    run.show("supernet", ["what:", "value:"], rows)


def show_trained(run: Run, space: SearchSpace, trained: DrawCounts) -> None:
    """Show how often each choice, and each value of what else is searched, was trained, and write it to files.

    The files, such as `choices.json` and `widths.json`, have a list for each layer, in the order of the space.
    """
    folder = run.folder.supernet
    write_atomically(folder.choices, (json.dumps(trained.choices) + "\n").encode())
    titles, rows = arrange_by_choice(space, [[f"{count:,}" for count in counts] for counts in trained.choices])
    table = [[layer.index, *row] for layer, row in zip(space.layers, rows, strict=True)]
    run.show("how often each choice was trained", ["layer", *titles], table)
    for name, file, values, counted in (
        ("each width was", folder.widths, list(map(format_width, space.widths)), trained.widths),
        ("each pair of bits was", folder.bits, list(map(format_bits, space.bits)), trained.bits),
        ("each output width was", folder.output_widths, list(map(format_width, space.output_widths)), trained.outputs),
        ("each image size was", folder.image_sizes, list(map(str, space.image_sizes)), trained.sizes),
    ):
        if values:
            write_atomically(file, (json.dumps(counted) + "\n").encode())
            table = [
                [layer, *(f"{count:,}" for count in counts)] for layer, counts in enumerate(counted) if any(counts)
            ]
            run.show(f"how often {name} trained", ["layer", *values], table)
