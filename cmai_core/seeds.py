"""Random numbers that belong to a sample, not to a batch: drawn from (seed, sample id, restart)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from cmai_core.errors import OptionError
from cmai_core.options import whole


def sample_seed(seed: int, sample_id: str, restart: int) -> int:
    """Return a 63-bit seed that depends on nothing but its arguments (not on Python's hash randomisation)."""
    digest = hashlib.blake2b(f"{seed}\x1f{restart}\x1f{sample_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_generators(seed: int, ids: Sequence[str], restart: int) -> list[torch.Generator]:
    """Return one CPU generator per sample: the same numbers on every device, in every batch order and split."""
    return [torch.Generator().manual_seed(sample_seed(seed, sample_id, restart)) for sample_id in ids]


def resolve_seed(seed: int | None, generator: torch.Generator | None) -> int:
    """Return the seed given, or one drawn from the generator, or 0.

    Raises:
        OptionError: both were given, or the seed is not a whole number ≥ 0.
    """
    if seed is not None and generator is not None:
        raise OptionError("Both seed and generator were given.", "Accepted: one of the two.")
    if generator is not None:
        return int(torch.randint(2**62, (), generator=generator, device=generator.device))
    if seed is None:
        return 0
    whole("seed", seed, 0)
    return seed


class SampleNoise:
    """Uniform numbers for searches that draw at every step: each sample has its own stream.

    Samples may leave on the way, but none may come back: then a sample's numbers depend on nothing but
    (seed, sample id, restart).

    Args:
        width: numbers of one sample and step. like: device and type of what is returned.
    """

    CHUNK = 64

    def __init__(self, seed: int, ids: Sequence[str], restart: int, width: int, like: torch.Tensor):
        self._generators = sample_generators(seed, [f"{sample_id}/steps" for sample_id in ids], restart)
        self._width, self._device, self._dtype = width, like.device, like.dtype
        self._position = 0
        self._buffer = torch.empty(0)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the next numbers in [0, 1) of these samples (indices into `ids`): len(rows)×width."""
        if self._position % self.CHUNK == 0:
            shape = (self.CHUNK, self._width)
            buffer = torch.zeros(len(self._generators), *shape, dtype=self._dtype)
            for row in rows.tolist():
                buffer[row] = torch.rand(shape, generator=self._generators[row], dtype=self._dtype)
            self._buffer = buffer.to(self._device)
        drawn = self._buffer[rows, self._position % self.CHUNK]
        self._position += 1
        return drawn
