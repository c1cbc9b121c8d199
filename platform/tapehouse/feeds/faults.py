"""Faults of a network and a venue, put into a stream of messages: seeded, repeatable, and told one by one.

What happens to a message follows from the seed and the message's number alone, so a stream that is served twice, or
from the middle, suffers the same. A message suffers one fault at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tapehouse.core.errors import UsageError

_WORD = 2**64 - 1
_REMEMBERED_MAX = 100_000  # faults that are told one by one


class Fault(StrEnum):
    """What may happen to a message."""

    DROP = "drop"
    DUP = "dup"  # it comes twice
    REORDER = "reorder"  # it comes behind the next one
    DISCONNECT = "disconnect"  # the connection ends before it; it was sent, and nobody got it
    CORRUPT_CHECKSUM = "corrupt-checksum"  # a digit of it is another one


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """What to do to a stream.

    Args:
        rates: How likely a fault is for each message, 0 to 1; together 1 at most.
        at: Messages that suffer a fault for certain, by number from 0.
    """

    seed: int = 7
    rates: Mapping[Fault, float] = field(default_factory=dict)
    at: Mapping[Fault, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(not 0 <= rate <= 1 for rate in self.rates.values()) or sum(self.rates.values()) > 1:
            raise UsageError("the rates of all faults are 0 to 1, together 1 at most")

    def fault_of(self, message: int) -> Fault | None:
        """What happens to a message."""
        for fault, messages in self.at.items():
            if message in messages:
                return fault
        point = _mix(_mix(self.seed) ^ message) / 2**64
        for fault in Fault:
            point -= self.rates.get(fault, 0.0)
            if point < 0:
                return fault
        return None


@dataclass(frozen=True, slots=True)
class Happened:
    """One fault, and the number of the message that suffered it."""

    fault: Fault
    message: int


@dataclass(frozen=True, slots=True)
class Passed:
    """What becomes of one message: what to send now, in order, and whether the connection ends after it."""

    messages: tuple[bytes, ...] = ()
    disconnect: bool = False


class Faults:
    """One connection's stream.

    Args:
        corrupt: A message with one digit or byte changed; None where it has nothing that a receiver could notice, and
            then nothing happens to it.
    """

    def __init__(self, plan: FaultPlan, corrupt: Callable[[bytes], bytes | None]) -> None:
        self.happened: list[Happened] = []  # at most _REMEMBERED_MAX
        self.count = 0
        self._plan = plan
        self._corrupt = corrupt
        self._held: bytes | None = None

    def passed(self, number: int, message: bytes) -> Passed:
        """Pass one message on.

        Args:
            number: Its own in the stream, growing.
        """
        fault = self._plan.fault_of(number)
        changed = self._corrupt(message) if fault is Fault.CORRUPT_CHECKSUM else None
        if fault is Fault.CORRUPT_CHECKSUM and changed is None:
            fault = None
        if fault is Fault.REORDER and self._held is not None:
            fault = None  # one at a time
        if fault is not None:
            self.count += 1
            if len(self.happened) < _REMEMBERED_MAX:
                self.happened.append(Happened(fault, number))
        if fault is Fault.REORDER:
            self._held = message
            return Passed()
        now: list[bytes] = []
        if fault is Fault.DUP:
            now = [message, message]
        elif changed is not None:
            now = [changed]
        elif fault is None:
            now = [message]
        if self._held is not None:
            now.append(self._held)
            self._held = None
        return Passed(tuple(now), disconnect=fault is Fault.DISCONNECT)

    def ended(self) -> Passed:
        """Nothing more comes: what was held back."""
        held, self._held = self._held, None
        return Passed() if held is None else Passed((held,))


def corrupt_level(message: bytes) -> bytes | None:
    """A venue's JSON with the last digit of its first level's size changed; None where it has no checksum or no level.

    A level is written `["price","size"`, and what the checksum is of is the written text.
    """
    if b'"checksum"' not in message:
        return None
    for side in (b'"bids":[["', b'"asks":[["'):
        begin = message.find(side)
        end = message.find(b'"', message.find(b'","', begin) + 3) if begin >= 0 else -1
        if end > 0 and 48 <= message[end - 1] <= 57:
            return _with_byte(message, end - 1, 48 + (message[end - 1] - 47) % 10)
    return None


def corrupt_json(message: bytes) -> bytes | None:
    """A message that is no JSON any more, for venues that send no checksum."""
    return _with_byte(message, 0, 0x23) if message else None


def corrupt_datagram(datagram: bytes) -> bytes | None:
    """A MoldUDP64 packet whose first length is wrong, so that it is none; None where it has no message."""
    return _with_byte(datagram, 21, datagram[21] ^ 1) if len(datagram) > 22 else None


def _with_byte(message: bytes, at: int, value: int) -> bytes:
    return message[:at] + bytes((value,)) + message[at + 1 :]


def _mix(word: int) -> int:
    """One round of SplitMix64 over an integer, as `random_integers` does in a kernel."""
    word = (word + 0x9E3779B97F4A7C15) & _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)
