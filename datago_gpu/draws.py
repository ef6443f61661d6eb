"""Draws the random numbers of one sample: the same on every machine, rank and back end, and after every resume.

What is drawn for a sample depends on the seed, the epoch, the sample's id and the number of the view. It depends
neither on the order of the samples nor on time. Uses the standard library only.
"""

from __future__ import annotations

from hashlib import blake2b
from random import Random

__all__ = ["draw_key", "draws_of"]


def draw_key(seed: int, epoch: int, sample_id: str, view: int = 0) -> int:
    """Returns a number of 128 bits that belongs to one view of one sample in one epoch. Any generator may start from
    this number.

    epoch: the epoch of the sample, counted from 0. view: the number of the view, from 0.
    """
    words = f"{seed} {epoch} {view} {sample_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(words, digest_size=16).digest(), "little")


def draws_of(seed: int, epoch: int, sample_id: str, view: int = 0) -> Random:
    """Returns the generator of one view of one sample in one epoch.

    Only `random()` of this generator is the same in all versions of Python: callers use no other method.
    """
    return Random(draw_key(seed, epoch, sample_id, view))
