"""What the result of an audit depends on, kept beside it."""

from __future__ import annotations

import json
from typing import Any

from spos_cli.config.identity import portable_settings, training_identity
from spos_cli.config.schema import Config
from spos_cli.engine.differences import require_same
from spos_cli.engine.distributed import Processes
from spos_cli.engine.progress import warn
from spos_cli.engine.teacher import Teacher
from spos_cli.files.reading import read_json
from spos_cli.files.writing import write_atomically
from spos_cli.run.command import Run
from spos_cli.run.image_comparison import make_image_record, require_same_images
from spos_cli.run.images import Images
from spos_cli.run.search_settings import read_settings
from spos_cli.run.teacher import name_teacher


def shorten(config: Config) -> Config:
    """Return the settings of a stand-alone training of the audit: those of a retraining with fewer steps."""
    training = config.retrain
    steps = config.audit.steps or max(1, training.steps // 10)
    changes = {
        "steps": steps,
        "warmup_steps": training.warmup_steps * steps // training.steps,
        "step_every": training.step_every and max(1, training.step_every * steps // training.steps),
        "evaluate_every": steps,
        "keep_best": False,
        "patience": None,
        "milestone_every": None,
    }
    return config.model_copy(update={"retrain": training.model_copy(update=changes)})


def _without_accumulate(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what an audit depends on without `retrain.accumulate`, which a small memory may force to change."""
    training = settings.get("training")
    retrain = training.get("retrain") if isinstance(training, dict) else None
    if not isinstance(training, dict) or not isinstance(retrain, dict):
        return settings
    kept = {name: value for name, value in retrain.items() if name != "accumulate"}
    return {**settings, "training": {**training, "retrain": kept}}


def remember_audit(
    run: Run, supernet_digest: str, images: Images, teacher: Teacher | None, processes: Processes
) -> None:
    """Write what the audit depends on beside its files.

    Args:
        teacher: of the stand-alone trainings.

    Raises:
        RunError: the files were made with other settings or images.
    """
    config, folder = run.config, run.folder.audit
    ours = {
        "supernet": supernet_digest,
        "search": portable_settings(config)["search"],
        "training": training_identity(shorten(config), "retrain"),
        **name_teacher(teacher),
        "architectures": config.audit.architectures,  # `audit.seeds` is missing: more searches may be added.
    }
    if folder.settings.exists():
        theirs, what = read_json(folder.settings), f"{folder} holds an audit"
        require_same(_without_accumulate(ours), _without_accumulate(theirs), what)
        if processes.is_main and ours["training"] != theirs["training"]:
            warn(
                f"retrain.accumulate is {config.retrain.accumulate} from here on, so BatchNorm's statistics are of"
                " other numbers of images than in the stand-alone trainings that are done"
            )
        # Accuracies of networks are compared with each other, once there are any.
        require_same_images(images, theirs.get("alone_on"), what, val=any(folder.stand_alone.glob("*/model.pt")))
    searched = read_settings(run.folder.search)
    ours |= {name: searched.get(name) for name in ("images", "pixels")}
    ours["alone_on"] = make_image_record(images, val=True)
    processes.barrier()
    if processes.is_main:
        write_atomically(folder.settings, (json.dumps(ours, indent=1) + "\n").encode())
