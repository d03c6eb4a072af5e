"""`spos supernet-train`: train the weight-sharing supernet, one path per step."""

from __future__ import annotations

import json

from spos_cli.config.identity import portable_settings, training_identity
from spos_cli.data.identity import TrainedOn
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import warn
from spos_cli.engine.trainer import Trainer
from spos_cli.files.writing import write_atomically
from spos_cli.models.skeleton import initialized
from spos_cli.models.supernet import Supernet
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.inputs import make_sampler, require_batch, training_recipe, warn_of_guessing, weights_seed
from spos_cli.run.output import in_columns
from spos_cli.space.architecture import format_width
from spos_cli.space.cost import format_cost
from spos_cli.space.sampling import (
    CostBinSampler,
    DrawCounts,
    Sampler,
    count_draws,
)
from spos_cli.space.search_space import SearchSpace


def run(run: Run, processes: Processes) -> None:
    """Leaves `supernet/last.pt`; goes on from there if it is not complete.

    Raises:
        SposError: the data, the settings or an earlier checkpoint do not allow it.
    """
    config = run.config
    training = config.supernet
    space = config.space.build()
    require_batch(space, training, processes.world_size, "supernet")  # fails before any work
    sampler = make_sampler(run, space)
    if processes.is_main and isinstance(sampler, CostBinSampler) and (idle := sampler.explain_unreachable_bins()):
        warn(f"{idle}; change supernet.flops_bins")
    images = Images(config, processes)
    images.check()
    images.warn_of_small_shared_memory(training)
    with run.working_in(run.folder.supernet.path, processes):
        train(run, processes, space, sampler, images)


def train(run: Run, processes: Processes, space: SearchSpace, sampler: Sampler, images: Images) -> None:
    """Trains from the last checkpoint, or from the beginning, to the end."""
    config, training = run.config, run.config.supernet
    indices, held_out = images.splits
    model = initialized(lambda: Supernet(space, training.affine, training.dropout), weights_seed(config, "supernet"))
    trainer = Trainer(
        model,
        training_recipe(training),
        processes,
        name="supernet",
        folder=run.folder.supernet.path,
        identity={"kind": "supernet", "recipe": training_identity(config, "supernet")},
        extra={
            "config": portable_settings(config),
            **TrainedOn.content(images.remembered(val=False), images.train, held_out),
        },
        require=lambda content, what: images.require_same(content.get("images"), what, val=False),
        seed=config.seed,
        preprocess=images.preprocess,
        arguments=lambda step: [(path,) for path in sampler.paths(step)],
        tensorboard=run.tensorboard,
        one_path=training.sampler != "fair",
    )
    if processes.is_main:
        rest = f" ({len(held_out):,} more are held out for the search)" if len(held_out) else ""
        run.say(
            f"training a supernet of {space.size:,} architectures on {len(indices):,} images of"
            f" {images.train.name}{rest}"
        )
    trainer.resume()
    run.record_config(run.folder.supernet.path, processes)
    trainer.train(lambda step: images.batches(indices, training, step, training.steps))
    if processes.is_main:
        show(run, trainer)
        show_trained(run, space, count_draws(sampler, training.steps, space.options))
        warn_of_guessing(run.folder.supernet.path, config, "supernet")
        run.next("search")


def show(run: Run, trainer: Trainer) -> None:
    """The summary at the end."""
    last = trainer.last_metrics()
    rows = [
        ("steps", trainer.step),
        ("training loss", f"{last.get('loss', float('nan')):.3f}"),
        ("training top-1", f"{last.get('top1', float('nan')):.1%}"),
        ("parameters", format_cost(sum(p.numel() for p in trainer.model.parameters()))),
        ("weights", run.folder.supernet.last),
    ]
    run.show("supernet", ["what:", "value:"], rows)


def show_trained(run: Run, space: SearchSpace, trained: DrawCounts) -> None:
    """How often each choice and each width was trained, on the screen and in `choices.json` and `widths.json`.

    By layer, in the order of the space.
    """
    write_atomically(run.folder.supernet.choices, (json.dumps(trained.choices) + "\n").encode())
    titles, rows = in_columns(space, [[f"{count:,}" for count in counts] for counts in trained.choices])
    table = [[layer.index, *row] for layer, row in zip(space.layers, rows, strict=True)]
    run.show("how often each choice was trained", ["layer", *titles], table)
    if space.widths:
        write_atomically(run.folder.supernet.widths, (json.dumps(trained.widths) + "\n").encode())
        widths = [[layer, *(f"{count:,}" for count in counts)] for layer, counts in enumerate(trained.widths)]
        run.show("how often each width was trained", ["layer", *map(format_width, space.widths)], widths)
