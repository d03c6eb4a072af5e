"""Every path of a run, named once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spos_cli.errors import RunError


@dataclass(frozen=True)
class StageFolder:
    """The folder in which one stage of a run works.

    Attributes:
        path: the folder itself.
        root: the run folder. It also holds the stage's files that outlive `--fresh`.
    """

    path: Path
    root: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The stage in names of files and folders: `retrain/<id>` is `retrain-<id>`."""
        return "-".join(self.path.relative_to(self.root).parts)

    @property
    def lock(self) -> Path:
        """The file that a process locks while it works in the folder."""
        return self.root / f".{self.name}.lock"

    @property
    def fresh_mark(self) -> Path:
        """The launch that has started the stage over, so that its restarted processes resume."""
        return self.root / f".{self.name}.fresh"

    @property
    def config(self) -> Path:
        """The settings with which the stage was begun."""
        return self.path / "config.yaml"

    @property
    def timing(self) -> Path:
        """How long the stage has worked, and on which devices."""
        return self.path / "timing.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"


@dataclass(frozen=True)
class TrainingFolder(StageFolder):
    """The folder of a training: of the supernet, or of one architecture."""

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.path / "last.pt"

    @property
    def metrics(self) -> Path:
        """Loss, top-1 and learning rate by step."""
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """The trained network, with all that is needed to use it."""
        return self.path / "model.pt"

    @property
    def best(self) -> Path:
        """The network of the evaluation with the highest top-1 during a retraining."""
        return self.path / "best.pt"

    @property
    def choices(self) -> Path:
        """How often each choice of a supernet was trained."""
        return self.path / "choices.json"

    @property
    def held_out(self) -> Path:
        """For which held-out images a supernet's training has checked that they can be read."""
        return self.path / "held_out.json"

    @property
    def widths(self) -> Path:
        """How often each width of a supernet was trained."""
        return self.path / "widths.json"

    @property
    def bits(self) -> Path:
        """How often each pair of bits of a supernet was trained."""
        return self.path / "bits.json"

    @property
    def output_widths(self) -> Path:
        """How often the training drew each output width of each network stage."""
        return self.path / "output_widths.json"

    @property
    def image_sizes(self) -> Path:
        """How often the training drew each image size."""
        return self.path / "image_sizes.json"


@dataclass(frozen=True)
class ScoresFolder(StageFolder):
    """The folder of scored architectures: of a search, or of a comparison with the truth."""

    @property
    def journal(self) -> Path:
        """One scored candidate per line."""
        return self.path / "journal.jsonl"

    @property
    def outcomes(self) -> Path:
        """Which images each candidate classified correctly: a row of bits for each line of the journal."""
        return self.path / "outcomes.bits"

    @property
    def settings(self) -> Path:
        """What the scores depend on."""
        return self.path / "settings.json"

    @property
    def scoring_images(self) -> Path:
        """The decoded images on which candidates are scored."""
        return self.path / "scoring.u8"

    @property
    def calibration_images(self) -> Path:
        """The augmented images from which BatchNorm statistics are computed."""
        return self.path / "calibration.u8"


@dataclass(frozen=True)
class SearchFolder(ScoresFolder):
    """The folder of a search."""

    @property
    def result(self) -> Path:
        """The winner, its interval and the number of statistically tied candidates; or the Pareto front."""
        return self.path / "result.yaml"

    @property
    def inputs(self) -> Path:
        """Which files the search was begun with, for the command that resumes it."""
        return self.path / "inputs.json"

    @property
    def report(self) -> Path:
        """The report as an HTML page."""
        return self.path / "report.html"


@dataclass(frozen=True)
class TruthFolder(ScoresFolder):
    """The folder of a comparison of the supernet's scores with the truth."""

    @property
    def result(self) -> Path:
        """What `spos audit --truth` reports."""
        return self.path / "result.json"


@dataclass(frozen=True)
class AuditFolder(StageFolder):
    """The folder of an audit of the search."""

    @property
    def journal(self) -> Path:
        """The candidates that only the audit has scored."""
        return self.path / "journal.jsonl"

    @property
    def result(self) -> Path:
        """What the audit reports."""
        return self.path / "result.json"

    @property
    def settings(self) -> Path:
        """What the result depends on."""
        return self.path / "settings.json"

    @property
    def stand_alone(self) -> Path:
        """The stand-alone trainings, one folder each."""
        return self.path / "alone"


@dataclass(frozen=True)
class EvaluationFolder(StageFolder):
    """The folder of the newest evaluation with details."""

    @property
    def details(self) -> Path:
        """What the network gets wrong, with pictures of its most confident mistakes."""
        return self.path / "details.json"

    @property
    def classes(self) -> Path:
        """A line per class."""
        return self.path / "classes.csv"

    @property
    def confusions(self) -> Path:
        """A line per pair of classes that is confused."""
        return self.path / "confusion.csv"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    @property
    def config(self) -> Path:
        """The settings of the newest command that has begun a stage."""
        return self.root / "config.yaml"

    @property
    def supernet(self) -> TrainingFolder:
        """The training of the supernet."""
        return TrainingFolder(self.root / "supernet", self.root)

    @property
    def search(self) -> SearchFolder:
        """The search."""
        return SearchFolder(self.root / "search", self.root)

    @property
    def archs(self) -> Path:
        """The exported architectures, one folder each."""
        return self.root / "archs"

    def arch(self, ident: str) -> Path:
        """Return the file of an exported architecture."""
        return self.archs / ident / "arch.yaml"

    def list_exported_archs(self) -> list[Path]:
        """Return the files of all exported architectures."""
        return sorted(self.archs.glob("*/arch.yaml"))

    @property
    def retrained(self) -> Path:
        """The retrained architectures, one folder each."""
        return self.root / "retrain"

    def retrain(self, ident: str) -> TrainingFolder:
        """Return the folder in which an architecture is retrained."""
        return TrainingFolder(self.retrained / ident, self.root)

    def list_retrained_models(self) -> list[Path]:
        """Return the files of all retrained networks."""
        return sorted(self.retrained.glob("*/model.pt"))

    @property
    def exported(self) -> Path:
        """The networks in other formats."""
        return self.root / "exported"

    @property
    def audit(self) -> AuditFolder:
        """The audit of the search."""
        return AuditFolder(self.root / "audit", self.root)

    def stand_alone(self, ident: str) -> TrainingFolder:
        """Return the folder of one of the audit's stand-alone trainings."""
        return TrainingFolder(self.audit.stand_alone / ident, self.root)

    @property
    def truth(self) -> TruthFolder:
        """The comparison of the supernet's scores with the truth."""
        return TruthFolder(self.root / "truth", self.root)

    @property
    def evaluation(self) -> EvaluationFolder:
        """The newest evaluation with details, of whichever network."""
        return EvaluationFolder(self.root / "evaluate", self.root)

    @property
    def previous(self) -> Path:
        """The stages that `--fresh` has set aside."""
        return self.root / "previous"

    @property
    def cache(self) -> Path:
        """The cache of decoded training images, with `data.store: disk`."""
        return self.root / "store" / "train.u8"

    @property
    def cache_lock(self) -> Path:
        """The file that a process locks while it fills the cache."""
        return self.root / ".store.lock"

    @property
    def flops_table(self) -> Path:
        """FLOPs and parameters of every choice."""
        return self.root / "flops_table.json"

    @property
    def official_flops_table(self) -> Path:
        """The same table in the form of the official code."""
        return self.root / "op_flops_dict.pkl"

    @property
    def flops_of_widths(self) -> Path:
        """The entries of an official FLOPs table that this space does not need: other widths or sizes."""
        return self.root / "flops_widths.json"

    @property
    def latency_table(self) -> Path:
        """The latency of every choice, measured on a device."""
        return self.root / "latency_table.json"


def name_at_size(path: Path, side: int) -> Path:
    """Return the path of the same images at another size than `space.image_size`, in pixels: `scoring-160px.u8`."""
    return path.with_name(f"{path.stem}-{side}px{path.suffix}")


def find_run(weights: Path) -> RunFolder | None:
    """Return the run folder that a weights file was made in; None if the file is elsewhere."""
    for run in map(RunFolder, weights.parents):
        folders = (run.supernet.path, run.archs, run.retrained, run.audit.stand_alone, run.exported)
        if run.config.is_file() and any(weights.is_relative_to(folder) for folder in folders):
            return run
    return None


def require_only_one(paths: Sequence[Path], name: str, command: str) -> Path:
    """Return the only one of several files.

    Args:
        paths: the files that exist.
        name: what they are called, for the message.
        command: the command that makes such a file.

    Raises:
        RunError: there is no file, or there are several and the user has to choose.
    """
    if not paths:
        raise RunError(f"there is no {name} in the run folder yet; run {command} first")
    if len(paths) > 1:
        raise RunError(f"there are several {name} files; name one of {', '.join(str(path) for path in paths)}")
    return paths[0]
