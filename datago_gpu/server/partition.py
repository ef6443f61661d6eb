"""Which of the index's 48 shards an image lies in, so that partitions equal those of a real Dataroom."""

from __future__ import annotations

SHARDS = 48
_ROUTING_SLOTS = 768
_MASK = 0xFFFFFFFF


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def _scramble(word: int) -> int:
    return _rotate(word * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK


def murmur3_x86_32(data: bytes) -> int:
    """The unsigned 32-bit murmur3 hash of `data` with seed 0."""
    state = 0
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        state ^= _scramble(int.from_bytes(data[start : start + 4], "little"))
        state = (_rotate(state, 13) * 5 + 0xE6546B64) & _MASK
    state ^= _scramble(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = (state ^ (state >> 16)) * 0x85EBCA6B & _MASK
    state = (state ^ (state >> 13)) * 0xC2B2AE35 & _MASK
    return state ^ (state >> 16)


def shard_of(image_id: str) -> int:
    """The shard, 0 to 47, of the image with this id."""
    value = murmur3_x86_32(image_id.encode("utf-16-le"))
    signed = value - (1 << 32) if value >> 31 else value
    return signed % _ROUTING_SLOTS // (_ROUTING_SLOTS // SHARDS)
