"""Every path of a run, named once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StageFolder:
    """Where one command of a run works.

    Attributes:
        path: the folder.
        lock: the file that a process holds while it works there; in the run folder, so that it outlives `--fresh`.
    """

    path: Path
    lock: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> Path:
        """The settings that the command was begun with."""
        return self.path / "config.yaml"

    @property
    def timing(self) -> Path:
        """How long the command has worked, and on what."""
        return self.path / "timing.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"


@dataclass(frozen=True)
class TrainingFolder(StageFolder):
    """A training: of the supernet, or of one architecture."""

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
    def choices(self) -> Path:
        """How often each choice of a supernet was trained."""
        return self.path / "choices.json"

    @property
    def widths(self) -> Path:
        """How often each width of a supernet was trained."""
        return self.path / "widths.json"


@dataclass(frozen=True)
class SearchFolder(StageFolder):
    """A search."""

    @property
    def journal(self) -> Path:
        """One scored candidate per line."""
        return self.path / "journal.jsonl"

    @property
    def outcomes(self) -> Path:
        """Which images each candidate got right: a row of bits for each line of the journal."""
        return self.path / "outcomes.bits"

    @property
    def result(self) -> Path:
        """The winner, its interval, the number of ties; or the front."""
        return self.path / "result.yaml"

    @property
    def settings(self) -> Path:
        """What the scores depend on."""
        return self.path / "settings.json"

    @property
    def inputs(self) -> Path:
        """Which files the search was begun with, for the command that resumes it."""
        return self.path / "inputs.json"

    @property
    def scoring_images(self) -> Path:
        """The decoded images that candidates are scored on."""
        return self.path / "scoring.u8"

    @property
    def calibration_images(self) -> Path:
        """The prepared images that BatchNorm statistics are computed from."""
        return self.path / "calibration.u8"

    @property
    def report(self) -> Path:
        """The report's page."""
        return self.path / "report.html"


@dataclass(frozen=True)
class AuditFolder(StageFolder):
    """An audit of the search."""

    @property
    def journal(self) -> Path:
        """Candidates that only the audit has scored."""
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
        """The stand-alone trainings, a folder for each."""
        return self.path / "alone"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run."""

    root: Path

    def __str__(self) -> str:
        return str(self.root)

    def lock_of(self, folder: Path) -> Path:
        """Return the lock file of a folder in the run."""
        return self.root / f".{self.name_of(folder)}.lock"

    def name_of(self, folder: Path) -> str:
        """Return the name of a folder in the run for files and messages: `retrain/<id>` is `retrain-<id>`."""
        return "-".join(folder.relative_to(self.root).parts)

    @property
    def config(self) -> Path:
        """The resolved settings of the newest command that has begun a stage."""
        return self.root / "config.yaml"

    @property
    def supernet(self) -> TrainingFolder:
        """The training of the supernet."""
        return self._training(self.root / "supernet")

    @property
    def search(self) -> SearchFolder:
        """The search."""
        path = self.root / "search"
        return SearchFolder(path, self.lock_of(path))

    @property
    def archs(self) -> Path:
        """Exported architectures, a folder for each."""
        return self.root / "archs"

    def arch(self, ident: str) -> Path:
        """Return the file of an exported architecture."""
        return self.archs / ident / "arch.yaml"

    @property
    def retrained(self) -> Path:
        """Retrained architectures, a folder for each."""
        return self.root / "retrain"

    def retrain(self, ident: str) -> TrainingFolder:
        """Return the folder in which an architecture is retrained."""
        return self._training(self.retrained / ident)

    @property
    def audit(self) -> AuditFolder:
        """The audit of the search."""
        path = self.root / "audit"
        return AuditFolder(path, self.lock_of(path))

    def stand_alone(self, ident: str) -> TrainingFolder:
        """Return the folder of one of the audit's stand-alone trainings."""
        return self._training(self.audit.stand_alone / ident)

    @property
    def previous(self) -> Path:
        """What `--fresh` has set aside."""
        return self.root / "previous"

    @property
    def cache(self) -> Path:
        """Decoded training images, with `data.store: disk`."""
        return self.root / "store" / "train.u8"

    @property
    def cache_lock(self) -> Path:
        """The file that a process holds while it fills the cache."""
        return self.root / ".store.lock"

    @property
    def flops_table(self) -> Path:
        """FLOPs and parameters of every choice."""
        return self.root / "flops_table.json"

    @property
    def official_flops_table(self) -> Path:
        """The same in the official form."""
        return self.root / "op_flops_dict.pkl"

    @property
    def flops_of_widths(self) -> Path:
        """FLOPs and parameters of every choice at the other widths."""
        return self.root / "flops_widths.json"

    @property
    def latency_table(self) -> Path:
        """The latency of every choice on a device."""
        return self.root / "latency_table.json"

    def _training(self, path: Path) -> TrainingFolder:
        return TrainingFolder(path, self.lock_of(path))
