"""Random numbers as a function of (seed, purpose, index): nothing reads a global state.

Two draws with the same seed, purpose and index are equal in every process, on every restart; draws that
differ in any of the three are independent.
"""

from __future__ import annotations

import zlib

import numpy as np


def sequence(seed: int, purpose: str, *index: int) -> np.random.SeedSequence:
    """The root of one stream of random numbers. All of `seed` and `index` are non-negative."""
    return np.random.SeedSequence((seed, zlib.crc32(purpose.encode()), *index))


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A NumPy generator for one purpose, for example `generator(seed, "path", step)`."""
    return np.random.default_rng(sequence(seed, purpose, *index))


def torch_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for `torch.manual_seed`, from the same streams."""
    return int(sequence(seed, purpose, *index).generate_state(1, np.uint64)[0] >> np.uint64(1))
