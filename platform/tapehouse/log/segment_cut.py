"""Where a log is cut into segments, so that any backup at any time cuts at the same places.

A segment ends with a sequence that is a multiple of `SEGMENT_MESSAGES`, with the last message of a branch, or before
the message that would take it past `SEGMENT_BYTES_MAX`. What is left at the log's end is its unfinished tail.
"""

from __future__ import annotations

from dataclasses import dataclass

from tapehouse.core.errors import GapError
from tapehouse.log.canonical import encode_message
from tapehouse.log.log_digest import GENESIS
from tapehouse.log.port import Branch, Extent, Message
from tapehouse.log.segment import SegmentEncoder, SegmentHeader, segment_digest

SEGMENT_MESSAGES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSegment:
    """One segment's plaintext and what a manifest says of it."""

    header: SegmentHeader
    last: int
    head_after: bytes
    digest: bytes
    plain: bytes


def ends_segment(sequence: int, branches: tuple[Branch, ...]) -> bool:
    """Whether a segment ends with this sequence, wherever it began."""
    return sequence % SEGMENT_MESSAGES == 0 or any(branch.through == sequence for branch in branches)


class SegmentCutter:
    """Takes a log's messages in order, gives its segments."""

    def __init__(self, name: str, extent: Extent, *, first: int, head_before: bytes = GENESIS) -> None:
        """Begin at sequence `first`, before which the log digest is `head_before`."""
        self._name = name
        self._extent = extent
        self._next = first
        self._parts: list[bytes] = []
        self._header: SegmentHeader | None = None
        self._encoder: SegmentEncoder | None = None
        self.head = head_before

    def add(self, message: Message) -> list[CutSegment]:
        """Take the next message; return what it finished: at most the segment before it and the one it ends.

        Raises:
            GapError: It is not the next message.
            DataError: It is too large to keep.
        """
        if message.sequence != self._next:
            raise GapError(
                f"message {self._next} is missing: {message.sequence} came",
                subject=self._name,
                hint="the log lost messages: repair or restore it",
            )
        body = encode_message(message)
        finished: list[CutSegment] = []
        if self._encoder is not None and not self._encoder.fits(body):
            finished += self.flush()
        if self._encoder is None:
            self._header = SegmentHeader(
                name=self._name,
                log_id=self._extent.log_id_at(message.sequence),
                first=message.sequence,
                head_before=self.head,
            )
            self._encoder = SegmentEncoder(self._header)
            self._parts = [self._encoder.header]
        self._parts.append(self._encoder.add_encoded(message.sequence, body))
        self.head = self._encoder.head
        self._next += 1
        if ends_segment(message.sequence, self._extent.branches):
            finished += self.flush()
        return finished

    def flush(self) -> list[CutSegment]:
        """The unfinished tail as a segment; nothing where the last message ended one."""
        encoder, header = self._encoder, self._header
        if encoder is None or header is None:
            return []
        self._parts.append(encoder.finish())
        plain = b"".join(self._parts)
        self._encoder, self._header, self._parts = None, None, []
        return [
            CutSegment(
                header=header,
                last=encoder.next_sequence - 1,
                head_after=encoder.head,
                digest=segment_digest(plain),
                plain=plain,
            )
        ]
