"""A receiver of MoldUDP64 without its sockets: datagrams of one or more lines in, messages in order and requests out.

A hole that no line fills is told at once, and asked for from the retransmission server: one request at a time, again
after a time that doubles, and after so many without an answer that brings something the hole is given up; of a server
that did not answer, the next hole is asked for once, so that it does not hold up the feed for long. An answer brings
as many messages as fit in a packet; the rest is asked for as soon as it is there.
"""

from __future__ import annotations

from tapehouse.core.errors import DecodeError, UsageError
from tapehouse.feeds.arbitration import BUFFERED_MAX, PATIENCE_NS, Arbiter, Event
from tapehouse.feeds.mold import COUNT_MAX, MoldRequest, build_request, read_packet

ATTEMPTS_MAX = 6  # requests for one thing before it is given up
ATTEMPTS_OF_SILENT = 1  # the same of a server that left the last thing unanswered
RETRY_NS = 50_000_000  # before a request is sent again
RETRY_NS_MAX = 1_000_000_000


class MoldReceiver:
    """One feed.

    Args:
        lines: How many lines bring it; they are merged as `Arbiter` says.
        retransmission: Whether there is a server to ask; else a hole waits `patience_ns` for what comes late.
        first: The number of the session's first message; None to begin wherever the feed is met.
    """

    def __init__(
        self,
        lines: int = 1,
        *,
        retransmission: bool = True,
        first: int | None = 1,
        patience_ns: int = PATIENCE_NS,
        buffered_max: int = BUFFERED_MAX,
    ) -> None:
        if patience_ns < 0:
            raise UsageError(f"a patience of {patience_ns} ns")
        self.arbiter = Arbiter(lines, first=first, patience_ns=patience_ns, buffered_max=buffered_max)
        self.requests = 0
        self.malformed = 0  # datagrams that are no packets
        self._retransmission = retransmission
        self._asked: tuple[int, int] | None = None  # the hole that the last request was for
        self._attempts = 0
        self._silent = False
        self._due = 0
        self._out: list[bytes] = []

    @property
    def ended(self) -> bool:
        """The session's end was told, and everything before it was handed out or given up."""
        return self.arbiter.ended

    def receive(self, line: int, datagram: bytes, now: int) -> None:
        """Take a datagram of one line.

        Raises:
            DecodeError: It is no packet; nothing of it was taken.
        """
        self._take_in(line, datagram, now)

    def receive_answer(self, datagram: bytes, now: int) -> None:
        """Take a datagram of the retransmission server.

        Raises:
            DecodeError: As `receive`.
        """
        before = self.arbiter.repaired
        self._take_in(None, datagram, now)
        self._silent = self._silent and self.arbiter.repaired == before

    def elapsed(self, now: int) -> None:
        """Time passed, in ns of any clock that never goes back."""
        if self._retransmission and self.arbiter.hole() is not None:
            self._ask(now)  # it has its own way of giving up
        else:
            self.arbiter.elapsed(now)
            self._ask(now)

    def take(self) -> list[Event]:
        """Runs of messages, gaps and resets since the last call, in order."""
        return self.arbiter.take()

    def take_requests(self) -> list[bytes]:
        """Datagrams for the retransmission server since the last call."""
        out, self._out = self._out, []
        return out

    def _take_in(self, line: int | None, datagram: bytes, now: int) -> None:
        try:
            packet = read_packet(datagram)
        except DecodeError:
            self.malformed += 1
            raise
        self.arbiter.receive(line, packet.session, packet.sequence, packet.messages, now, ended=packet.ended)
        self._ask(now)

    def _ask(self, now: int) -> None:
        """Ask for the first hole that was told, if it is due."""
        if not self._retransmission:
            return
        while (hole := self.arbiter.hole()) is not None:
            if hole != self._asked:
                self._asked, self._attempts, self._due = hole, 0, now
            if now < self._due:
                return
            if self._attempts < (ATTEMPTS_OF_SILENT if self._silent else ATTEMPTS_MAX):
                begin, end = hole
                session = self.arbiter.session or b""
                self._out.append(build_request(MoldRequest(session, begin, min(end - begin, COUNT_MAX))))
                self.requests += 1
                self._due = now + min(RETRY_NS << self._attempts, RETRY_NS_MAX)
                self._attempts += 1
                return
            self._silent = True
            self.arbiter.give_up(now)
        self._asked = None
