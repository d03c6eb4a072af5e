"""Suggest settings for a name that no setting has: by meaning, by place, then by letters."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from spos_cli.config.schema import Config
from spos_cli.config.section import Section

MIN_SIMILARITY = 0.75  # of the letters of a typing error; words that only share some letters are below
MAX_SUGGESTIONS = 4

# Names that other tools have for our settings. A name with a point is that of one section.
SYNONYMS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("learning_rate", "base_lr", "max_lr", "initial_lr"): ("lr",),
    ("wd", "l2", "l2_reg"): ("weight_decay",),
    ("batch", "bs", "batchsize", "mini_batch"): ("batch_size",),
    ("accum", "accum_iter", "accumulation", "accumulation_steps", "grad_accum", "gradient_accumulation_steps"): (
        "accumulate",
    ),
    ("scheduler", "lr_scheduler", "lr_schedule", "lr_policy"): ("schedule",),
    ("warmup", "lr_warmup", "num_warmup_steps", "warmup_iters"): ("warmup_steps",),
    ("clip", "clip_grad", "grad_clip", "gradient_clip", "gradient_clipping", "max_grad_norm"): ("clip_grad_norm",),
    ("ema", "model_ema", "ema_momentum"): ("ema_decay",),
    ("fp16", "bf16", "half", "mixed_precision", "precision", "autocast"): ("amp",),
    ("smoothing",): ("label_smoothing",),
    ("optim", "opt"): ("optimizer",),
    ("criterion", "loss_function"): ("loss",),
    ("iterations", "iters", "max_iter", "max_iters", "max_steps", "num_steps", "updates"): ("steps", "generations"),
    ("eval_every", "eval_interval", "eval_steps", "val_interval", "validate_every"): ("evaluate_every",),
    ("early_stopping", "early_stop", "early_stopping_patience"): ("patience",),
    ("save_best", "save_best_only", "best_checkpoint"): ("keep_best",),
    ("save_every", "save_interval", "save_steps", "checkpoint_interval"): ("checkpoint_every",),
    ("log_interval", "logging_steps", "print_freq"): ("log_every",),
    ("distill", "distillation", "kd"): ("teacher",),
    ("drop_path", "drop_path_rate", "drop_connect", "drop_connect_rate"): ("stochastic_depth",),
    ("num_workers", "n_workers", "loader_workers"): ("data.workers",),
    ("img_size", "input_size", "resolution", "crop_size"): ("space.image_size",),
    ("num_classes", "n_classes", "nb_classes"): ("space.classes",),
    ("data_dir", "data_path", "dataset", "dataset_path"): ("data.root",),
    ("normalize", "normalization"): ("data.preset", "data.mean", "data.std"),
    ("cache",): ("data.store",),
    ("holdout",): ("data.holdout_per_class", "data.holdout_share"),
    ("val_split", "val_size", "validation_split"): ("data.val_share", "data.holdout_share"),
    ("flops", "max_flops", "min_flops", "flops_range", "flops_constraint"): ("flops_limit",),
    ("params", "max_params", "min_params", "params_range"): ("params_limit",),
    ("bitops", "max_bitops", "bit_ops", "bops"): ("bitops_limit",),
    ("bitwidth", "bit_width", "bitwidths", "nbits", "precision_bits", "quantization_bits"): ("space.bits",),
    ("energy", "memory", "max_energy", "max_memory", "cost", "cost_limit", "cost_limits"): ("limits", "costs"),
    ("latency", "max_latency", "min_latency", "latency_range"): ("latency_limit",),
    ("pop_size", "population_size", "population_num"): ("population",),
    ("mutation_rate", "mutation_prob", "mut_prob", "m_prob"): ("mutation_probability",),
    ("color_jitter", "colour_jitter", "brightness", "contrast", "saturation"): ("jitter",),
    ("hflip", "horizontal_flip", "mirror"): ("flip",),
    ("vflip",): ("vertical_flip",),
    ("rotate", "rotation", "shear", "auto_augment", "autoaugment", "randaugment"): ("rand_augment", "trivial_augment"),
    ("cutout", "erase", "random_erase", "random_erasing", "reprob"): ("erasing",),
    ("gpus", "num_gpus", "gpu", "device", "nproc", "num_processes"): ("devices",),
    ("output_dir", "work_dir", "save_dir", "log_dir"): ("run_dir",),
    ("random_seed",): ("seed",),
    ("ops", "operations"): ("space.choices",),
}
# What is not a setting here.
ADVICE = {
    ("epochs", "num_epochs", "max_epochs"): "trainings are counted in updates: set steps to"
    " epochs * training images / batch_size",
    ("pretrained", "weights", "init", "init_from", "checkpoint", "finetune"): "weights to begin with are an option of"
    " the trainings, --init FILE",
    ("resume", "resume_from", "auto_resume"): "the same command resumes by itself, and --fresh starts over",
}


def suggest_setting(key: Sequence[str]) -> str:
    """Return a hint for a name that its section does not have: settings of this meaning, or all that are known.

    Args:
        key: the parts of the name, such as `("retrain", "learning_rate")`.
    """
    siblings, name = list_fields(key[:-1]), key[-1].lower().replace("-", "_")
    if name in siblings:
        return _did_you_mean([name])
    for words, advice in ADVICE.items():
        if name in words:
            return advice
    synonyms = [target for words, targets in SYNONYMS.items() if name in words for target in targets]
    here = [target for target in synonyms if target in siblings]
    elsewhere = [
        ".".join(other) for target in synonyms or [name] for other in _list_settings() if _names(target, other)
    ]
    similar = difflib.get_close_matches(name, siblings, n=1, cutoff=MIN_SIMILARITY)
    for suggestions in (here, similar, elsewhere):
        if suggestions:
            return _did_you_mean(suggestions)
    return f"known here: {', '.join(siblings)}"


def _did_you_mean(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(map(repr, names[:MAX_SUGGESTIONS]))}?"


def _names(target: str, key: Sequence[str]) -> bool:
    """Return whether a name, with or without its section, is that of a setting."""
    return target == (".".join(key) if "." in target else key[-1])


def _list_settings(section: Sequence[str] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the keys of all settings, without the items of lists."""
    for name in list_fields(section):
        key = (*section, name)
        yield key
        if is_section(key):
            yield from _list_settings(key)


def find_section(key: Sequence[str]) -> type[Section] | None:
    """Return the section that a key such as ("space", "stages", "0") stands for; None if it is not a section."""
    section: type[Section] | None = Config
    for part in key:
        if part.isdecimal():
            continue
        if section is None or part not in section.model_fields:
            return None
        annotation = section.model_fields[part].annotation
        kinds = [annotation, *getattr(annotation, "__args__", ())]  # A field is a section, or a tuple of sections.
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
    return section


def is_section(key: Sequence[str]) -> bool:
    """Return whether a key stands for one section, not for a list of them."""
    section = find_section(key)
    parent = find_section(key[:-1])
    if section is None or parent is None:
        return False
    annotation = parent.model_fields[key[-1]].annotation
    return annotation is section or type(None) in getattr(annotation, "__args__", ())


def list_fields(key: Sequence[str]) -> list[str]:
    """Return the names of the settings in a section; none if the key does not stand for one."""
    section = find_section(key)
    return list(section.model_fields) if section else []
