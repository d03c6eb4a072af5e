"""Streams of random numbers: one for each seed, purpose and index."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from spos_cli import seeding


def first(seed: int, *index: int, purpose: str = "path") -> tuple[int, ...]:
    """Return the first draws of a stream."""
    return tuple(seeding.generator(seed, purpose, *index).integers(2**62, size=4).tolist())


def test_equal_arguments_are_one_stream() -> None:
    assert first(3, 1, 2) == first(3, 1, 2)
    assert seeding.torch_seed(3, "path", 1) == seeding.torch_seed(3, "path", 1)
    assert 0 <= seeding.torch_seed(2**63 - 1, "path") < 2**63


def test_every_other_seed_purpose_and_index_is_another_stream() -> None:
    """Zeros at the end and seeds over 32 bits count, too, although NumPy splits numbers and pads them."""
    seeds = (0, 1, 5, 2**32 - 1, 2**32, 2**32 + 5, 5 * 2**32, 2**63 - 1)
    indices = [index for length in range(4) for index in itertools.product((0, 1, 2**40), repeat=length)]
    purposes = ("path", "order")
    drawn = {first(seed, *index, purpose=purpose) for seed in seeds for index in indices for purpose in purposes}
    assert len(drawn) == len(seeds) * len(indices) * len(purposes)


@pytest.mark.parametrize("crc", [1, 12345])
def test_a_large_seed_is_not_a_small_one_with_another_purpose(monkeypatch: pytest.MonkeyPatch, crc: int) -> None:
    """Even if the checksum of the purpose is the high word of the seed."""
    monkeypatch.setattr(seeding.zlib, "crc32", lambda purpose: crc)
    large = first(crc * 2**32 + 9)
    assert large not in {first(9), first(9, 0), first(9, crc), first(9, 0, 0), first(9, crc, 0)}


def test_streams_are_independent() -> None:
    draws = np.array([seeding.generator(0, "augment", 0, index).random(8) for index in range(2000)])
    correlations = np.corrcoef(draws.T)[~np.eye(8, dtype=bool)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(2000)
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 4.5 / np.sqrt(2000)
