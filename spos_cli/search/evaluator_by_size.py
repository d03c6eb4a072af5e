"""Score candidates of several image sizes, each on images of its own size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from spos_cli.models.supernet import Supernet
from spos_cli.search.evaluator import Evaluator, GoOn, Score
from spos_cli.search.racing import Race
from spos_cli.space.architecture import Architecture


class EvaluatorBySize:
    """Score architectures, each as if it were the only one, and its image size the only one of the space.

    Candidates of one size are scored together. All sizes have the same images in the same order, so outcomes can be
    compared image by image.

    Args:
        evaluators: one for each image size, in pixels, with the same supernet.
    """

    def __init__(self, evaluators: Mapping[int, Evaluator]) -> None:
        self.evaluators = evaluators
        first, *others = evaluators.values()
        assert all(other.labels.equal(first.labels) for other in others), "the same images at each size"
        self.supernet: Supernet = first.supernet
        self.labels: Tensor = first.labels  # (M,)

    @property
    def images(self) -> Tensor:
        """The images to score on, at the largest size: `(M, C, S, S) uint8`."""
        return self.evaluators[max(self.evaluators)].images

    def score(
        self, archs: Sequence[Architecture], race: Race | None = None, go_on: GoOn = lambda done: True
    ) -> list[Score] | None:
        """Calibrate paths and count what they get right; return None if `go_on` has stopped it. See `Evaluator.score`.

        Args:
            archs: those of one size should have much in common.
            race: stops candidates that fall behind, whatever the size of their rival.
            go_on: receives the share of the work that is done, where the work of a candidate is that of its pixels.
        """
        scores: dict[Architecture, Score] = {}
        total, done = sum(arch.image_size**2 for arch in archs), 0  # in pixels
        for side in sorted({arch.image_size for arch in archs}):
            group = [arch for arch in archs if arch.image_size == side]
            work = len(group) * side**2

            def go_on_with_all(share: float, done: int = done, work: int = work) -> bool:
                return go_on((done + share * work) / total)

            scores_of_size = self.evaluators[side].score(group, race, go_on_with_all)
            if scores_of_size is None:
                return None
            scores.update(zip(group, scores_of_size, strict=True))
            done += work
        return [scores[arch] for arch in archs]
