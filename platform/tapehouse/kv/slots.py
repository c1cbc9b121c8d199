"""Slots: the 16,384 parts of a KV's keys that shards share out, as Redis Cluster counts them.

Source: the Redis Cluster specification, "Key distribution model" and "Hash tags"; CRC-16/XMODEM (polynomial 0x1021).
"""

from __future__ import annotations

import binascii

SLOTS = 16_384


def hashed_part(key: bytes) -> bytes:
    """What of a key is hashed: what stands between its first `{` and the next `}`, where that is not empty; else all.

    Keys that share a tag share a slot, so that one batch can hold them.
    """
    opened = key.find(b"{")
    if opened >= 0:
        closed = key.find(b"}", opened + 1)
        if closed > opened + 1:
            return key[opened + 1 : closed]
    return key


def slot_of(key: bytes) -> int:
    """The slot of a key, 0 to SLOTS - 1."""
    return binascii.crc_hqx(hashed_part(key), 0) % SLOTS


def shard_of(slot: int, shards: int) -> int:
    """The shard that a slot begins its life in, where a KV is made with so many: equal runs, the first ones first."""
    return slot * shards // SLOTS
