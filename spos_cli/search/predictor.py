"""Predict fitness from the options of an architecture, by ridge regression.

NumPy only. The model is additive: each choice of each layer, and whatever else is searched, has an effect on the
fitness. It is small on purpose: a hundred scores are enough for it, and it smooths the noise of single scores. What
several layers do together is left to the supernet, which scores everything that the predictor proposes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spos_cli.space.architecture import Architecture
from spos_cli.space.options import Options

Numbers = NDArray[np.float64]
Indices = NDArray[np.int64]

PENALTY = 1.0  # Weight of the sum of squared effects. Measured on tables: values from 0.1 to 10 find equally good ones.
DECIMALS = 9  # Effects are rounded, so that the last bits of a solver, which differ between CPUs, decide nothing.


class Predictor:
    """A ridge regression of fitness on the fields of all layers' options, each of them one-hot.

    Args:
        options: of the space.
        archs: scored architectures, at least one.
        fitness: of each of them. Below 0 are those that were stopped early: they count with their score so far, which
            is their fitness plus 1.

    Attributes:
        effects: `(features,)`, of each choice of each layer, then of each width of each layer, and so on.
        intercept: the prediction without any effect.
    """

    def __init__(self, options: Options, archs: Sequence[Architecture], fitness: Sequence[float]) -> None:
        layers, counts = len(options.scalable), list(options.choice_counts)
        # Sorted; 0: a layer without a width, bits, and so on.
        self._others = [np.array(sorted((0, *values))) for values in options.other_values]
        for known in self._others:
            if len(known) > 1:
                counts += [len(known)] * layers
        # The first feature of each layer's choices, then of its widths, and so on.
        self._offsets: Indices = np.cumsum([0, *counts[:-1]])
        values = np.array(fitness, np.float64)
        values[values < 0] += 1
        features = np.zeros((len(archs), sum(counts)))
        features[np.arange(len(archs))[:, None], self._find_features(archs)] = 1
        means = features.mean(0)
        centred = features - means  # So the intercept has no penalty.
        gram = centred.T @ centred + PENALTY * np.eye(len(means))
        self.effects: Numbers = np.linalg.solve(gram, centred.T @ (values - values.mean())).round(DECIMALS)
        self.intercept = float(values.mean() - means @ self.effects)

    def predict(self, archs: Sequence[Architecture]) -> list[float]:
        """Return the predicted fitness of architectures; at least 0, since below are those that were stopped early."""
        if not archs:
            return []
        predicted: Numbers = self.intercept + self.effects[self._find_features(archs)].sum(1)  # (archs,)
        return [float(value) for value in np.maximum(predicted.round(DECIMALS), 0.0)]

    def _find_features(self, archs: Sequence[Architecture]) -> Indices:
        """Return the features of each architecture: `(archs, layers)`, and as many for whatever else is searched."""
        columns: Indices = np.array([arch.columns for arch in archs], np.int64)  # (archs, fields, layers)
        indices = columns[:, 0]
        for field, known in enumerate(self._others, 1):
            if len(known) > 1:
                indices = np.concatenate([indices, np.searchsorted(known, columns[:, field])], 1)
        return indices + self._offsets
