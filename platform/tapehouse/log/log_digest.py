"""The log digest: one number that says what a log holds, message by message.

`h[0]` is 32 zero bytes; `h[n] = BLAKE3(h[n-1] || canonical bytes of message n)`. The sequence is part of those bytes,
so a hole, a swap or a renumbering changes the head. Branches are not part of them: a restored log has the digest of
the log that it was restored from. Segments keep the head before and after themselves, so any range can be checked
without the messages before it.
"""

from __future__ import annotations

from collections.abc import Iterable

from blake3 import blake3

from tapehouse.core.errors import GapError
from tapehouse.log.canonical import encode_message
from tapehouse.log.port import Message

HEAD_BYTES = 32
GENESIS = bytes(HEAD_BYTES)  # the head before the first message of a log


class LogDigest:
    """A chain over the messages of one log, in order and without a hole."""

    def __init__(self, *, next_sequence: int, head: bytes = GENESIS) -> None:
        """Begin before `next_sequence`, where the chain's head is `head`."""
        self.next_sequence = next_sequence
        self.head = head

    def update(self, message: Message) -> bytes:
        """Chain the next message and return its canonical bytes.

        Raises:
            GapError: It is not the next one.
        """
        body = encode_message(message)
        self.update_encoded(message.sequence, body)
        return body

    def update_encoded(self, sequence: int, body: bytes | memoryview) -> None:
        """Chain the next message, given as its canonical bytes; raises GapError where it is not the next one."""
        if sequence != self.next_sequence:
            raise GapError(
                f"message {self.next_sequence} is missing from a log digest: {sequence} came",
                position=f"sequence {sequence}",
            )
        self.head = blake3(self.head).update(body).digest()
        self.next_sequence += 1


def digest_messages(messages: Iterable[Message], *, next_sequence: int, head: bytes = GENESIS) -> bytes:
    """The head after these messages."""
    digest = LogDigest(next_sequence=next_sequence, head=head)
    for message in messages:
        digest.update(message)
    return digest.head
