"""Random numbers as a function of (seed, purpose, index).

Nothing reads a global state. Two streams with the same seed, purpose and index are equal in every process and after
every restart. Streams that differ in any of the three are independent. Indices of different lengths are different:
no index, 0 and (0, 0) are three.
"""

from __future__ import annotations

import zlib

import numpy as np

LOW_32_BITS = 2**32 - 1


def seed_sequence(seed: int, purpose: str, *index: int) -> np.random.SeedSequence:
    """Return the root of one stream of random numbers.

    Args:
        seed, index: each number is from 0 to 2**64 - 1.
    """
    # NumPy would split each number into as few 32-bit words as it needs, and pad with zeros. Then different numbers
    # could become the same words. Here each number has two words, and the length of the index is a word.
    words = [seed & LOW_32_BITS, seed >> 32, zlib.crc32(purpose.encode()), len(index)]
    for number in index:
        words += (number & LOW_32_BITS, number >> 32)
    return np.random.SeedSequence(np.array(words, np.uint32))


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return a NumPy generator for one purpose, for example `generator(seed, "path", step)`."""
    return np.random.default_rng(seed_sequence(seed, purpose, *index))


def torch_seed(seed: int, purpose: str, *index: int) -> int:
    """Return a 63-bit seed for `torch.manual_seed`, from the same streams."""
    return int(seed_sequence(seed, purpose, *index).generate_state(1, np.uint64)[0] >> np.uint64(1))
