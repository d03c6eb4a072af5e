"""Random numbers as a function of (seed, purpose, index): nothing reads a global state.

Two draws with the same seed, purpose and index are equal in every process, on every restart; draws that
differ in any of the three are independent. An index of another length is another index: none, 0, and (0, 0) are three.
"""

from __future__ import annotations

import zlib

import numpy as np

WORD = 2**32 - 1


def sequence(seed: int, purpose: str, *index: int) -> np.random.SeedSequence:
    """The root of one stream of random numbers. `seed` and each number of `index` are from 0 to 2**64 - 1."""
    # NumPy would take each number apart into as many words of 32 bits as it needs, and fill up with zeros, so that
    # other numbers could become the same words. Here each has its fixed place, and the length of the index is a word.
    words = [seed & WORD, seed >> 32, zlib.crc32(purpose.encode()), len(index)]
    for number in index:
        words += (number & WORD, number >> 32)
    return np.random.SeedSequence(np.array(words, np.uint32))


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A NumPy generator for one purpose, for example `generator(seed, "path", step)`."""
    return np.random.default_rng(sequence(seed, purpose, *index))


def torch_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for `torch.manual_seed`, from the same streams."""
    return int(sequence(seed, purpose, *index).generate_state(1, np.uint64)[0] >> np.uint64(1))
