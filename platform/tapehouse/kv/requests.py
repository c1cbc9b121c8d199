"""What a caller may ask for, as entries: checked here, so that a mistake is told before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tapehouse.core.errors import DataError, UsageError
from tapehouse.core.units import NS_PER_SECOND
from tapehouse.kv.entries import BATCH_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX, Entry, EntryFlag, Op, Status
from tapehouse.kv.errors import CrossSlotError
from tapehouse.kv.levels import Token
from tapehouse.kv.slots import slot_of

RESERVED = b"\x00tapehouse/"  # begins keys that the KV keeps about itself
TTL_S_MAX = 100 * 366 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a write.

    Attributes:
        status: APPLIED, or why not: a condition that did not hold (ABSENT, PRESENT, CHANGED), or another entry of its
            batch that did not (REFUSED).
        revision: That the key has now; 0 where there is no such key; of a delete that was applied, its own.
        old: The value before, where it was asked for; None where there was none.
        token: For a session that is to see this write.
    """

    status: Status
    revision: int
    old: bytes | None
    token: Token

    @property
    def is_applied(self) -> bool:
        """Whether it took effect."""
        return self.status is Status.APPLIED


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOutcome:
    """What became of a batch, which was applied as a whole or not at all; and of each of its entries."""

    status: Status
    outcomes: tuple[Outcome, ...]
    token: Token

    @property
    def is_applied(self) -> bool:
        """Whether it took effect."""
        return self.status is Status.APPLIED


def put(
    key: bytes,
    value: bytes,
    *,
    expiry: int = 0,
    revision: int | None = None,
    if_absent: bool = False,
    if_present: bool = False,
    keep_expiry: bool = False,
    return_old: bool = False,
) -> Entry:
    """Set a key.

    Args:
        expiry: UTC ns, 0 for none.
        revision: Only where the key has this one; 0: only where there is none.
        keep_expiry: Leave the expiry as it is; `expiry` is not looked at.
    """
    if len(value) > VALUE_BYTES_MAX:
        raise DataError(f"a value of {len(value)} bytes", hint=f"at most {VALUE_BYTES_MAX}")
    flags = (
        EntryFlag.IF_ABSENT * if_absent
        | EntryFlag.IF_PRESENT * if_present
        | EntryFlag.KEEP_EXPIRY * keep_expiry
        | EntryFlag.RETURN_OLD * return_old
    )
    return _entry(Op.PUT, key, flags, value=value, expiry=expiry, revision=revision)


def delete(key: bytes, *, revision: int | None = None, return_old: bool = False) -> Entry:
    """Remove a key; where it has this revision, if one is named."""
    return _entry(Op.DELETE, key, EntryFlag.RETURN_OLD * return_old, revision=revision)


def add(key: bytes, amount: int) -> Entry:
    """Add to the decimal integer that a key holds, 0 where there is none; its expiry stays."""
    if not -(2**63) <= amount < 2**63:
        raise DataError(f"{amount} does not fit 64 bits")
    return _entry(Op.ADD, key, EntryFlag.RETURN_OLD, value=amount.to_bytes(8, "little", signed=True))


def expire(key: bytes, expiry: int, *, revision: int | None = None) -> Entry:
    """Set a key's expiry, UTC ns, or take it away with 0; value and revision stay."""
    return _entry(Op.EXPIRE, key, 0, expiry=expiry, revision=revision)


def expiry_after(ttl_s: float | None, now: int) -> int:
    """The absolute expiry, UTC ns, of what is to live for so many seconds from `now` (UTC ns); 0 for ever.

    Raises:
        DataError: It is no time to live.
    """
    if ttl_s is None:
        return 0
    if not 0 < ttl_s <= TTL_S_MAX:
        raise DataError(f"a time to live of {ttl_s} seconds", hint=f"more than 0, at most {TTL_S_MAX}")
    return now + max(round(ttl_s * NS_PER_SECOND), 1)


def batch(entries: Sequence[Entry]) -> list[Entry]:
    """Entries that are applied together or not at all, with the one that announces them.

    Raises:
        CrossSlotError: Their keys belong to several slots.
        UsageError: There are none, too many, or a key comes twice.
    """
    if not 0 < len(entries) <= BATCH_MAX:
        raise UsageError(f"a batch of {len(entries)} entries", hint=f"1 to {BATCH_MAX}")
    keys = [entry.key for entry in entries]
    if len(set(keys)) != len(keys):
        raise UsageError("a key comes twice in one batch", hint="send its last change alone, or two batches")
    if len({slot_of(key) for key in keys}) != 1:
        raise CrossSlotError(
            "CROSSSLOT the keys of one batch belong to several slots",
            hint="give them one hash tag, such as {book}bid and {book}ask",
        )
    return [Entry(op=Op.BATCH, value=len(entries).to_bytes(4, "little")), *entries]


def check_key(key: bytes) -> bytes:
    """A key that a caller may use.

    Raises:
        DataError, UsageError: It is too long, or the KV's own.
    """
    if len(key) > KEY_BYTES_MAX:
        raise DataError(f"a key of {len(key)} bytes", hint=f"at most {KEY_BYTES_MAX}")
    if key.startswith(RESERVED):
        raise UsageError(f"keys that begin with {RESERVED!r} are the KV's own", hint="choose another key")
    return key


def _entry(
    op: Op, key: bytes, flags: int, *, value: bytes = b"", expiry: int = 0, revision: int | None = None
) -> Entry:
    check_key(key)
    if not 0 <= expiry < 2**63:
        raise DataError(f"an expiry at {expiry}", hint="UTC ns, 0 for none")
    if revision is not None:
        if not 0 <= revision < 2**63:
            raise DataError(f"revision {revision}", hint="one that a read or a write answered, or 0 for no such key")
        flags |= EntryFlag.IF_REVISION
    return Entry(op=op, key=key, value=value, flags=int(flags), expiry=expiry, revision=revision or 0)
