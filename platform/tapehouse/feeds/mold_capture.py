"""The messages of MoldUDP64 packets in a capture, and where some are missing or a session ends.

A packet that was seen before, as when both lines of a feed are in one capture, is dropped by its numbers, whole or in
part; what came first counts. One capture must hold one stream: two venues in one would look like a session that
changes with each packet.
"""

from __future__ import annotations

import numpy as np

from tapehouse.core.kernel import Array, Int, kernel
from tapehouse.feeds.itch_kernels import BEGIN, END, FIRST, RECEIVED, be16, be64
from tapehouse.feeds.mold import END_OF_SESSION, HEADER_BYTES
from tapehouse.feeds.pcap import BEGIN as PAYLOAD
from tapehouse.feeds.pcap import END as PAYLOAD_END
from tapehouse.feeds.pcap import TIME

# Slots of the state: the session's 10 bytes in two words, whether there is one, the next number; then counters.
SESSION, SESSION_END, BEGUN, NEXT, PACKETS, MESSAGES, HEARTBEATS, ENDED, REPEATED, MISSING, STREAM_SLOTS = range(11)

ALL_TAKEN, GAP, NEW_SESSION, BAD_PACKET = range(4)


@kernel()
def take_packets(data: Array, datagrams: Array, row: Int, state: Array, spans: Array, counts: Array) -> Int:
    """Packets from `row` on into spans of their messages.

    Args:
        datagrams: As `pcap.Capture.blocks` gives them.
        state: Of the stream, STREAM_SLOTS.
        spans: As `itch_kernels.decode_spans` takes them; as many rows as datagrams.
        counts: 0 becomes the spans, 1 the row where it stopped.

    Returns:
        ALL_TAKEN; or GAP where the packet at the row begins behind the next number, NEW_SESSION where it is of another
        session, BAD_PACKET where it is none. The caller deals with it and goes on at the row.
    """
    counts[0] = 0
    while row < datagrams.shape[0]:
        counts[1] = row
        at = datagrams[row, PAYLOAD]
        end = datagrams[row, PAYLOAD_END]
        if end - at < HEADER_BYTES:
            return BAD_PACKET
        first = be64(data, at + 10)
        count = be16(data, at + 18)
        messages = np.int64(0) if count == END_OF_SESSION else count
        if first < 0 or not _is_framed(data, at + HEADER_BYTES, end, messages):
            return BAD_PACKET
        if state[BEGUN] == 0 or state[SESSION] != be64(data, at) or state[SESSION_END] != be16(data, at + 8):
            return NEW_SESSION
        if first > state[NEXT]:
            return GAP
        state[PACKETS] += 1
        if count == END_OF_SESSION:
            state[ENDED] += 1
        elif count == 0:
            state[HEARTBEATS] += 1
        else:
            at += HEADER_BYTES
            known = min(state[NEXT] - first, count)
            state[REPEATED] += known
            for _ in range(known):
                at += 2 + be16(data, at)
            if known < count:
                span = counts[0]
                spans[span, BEGIN] = at
                spans[span, END] = end
                spans[span, FIRST] = state[NEXT]
                spans[span, RECEIVED] = datagrams[row, TIME]
                counts[0] += 1
                state[MESSAGES] += count - known
                state[NEXT] = first + count
        row += 1
    counts[1] = row
    return ALL_TAKEN


@kernel()
def _is_framed(data: Array, at: Int, end: Int, count: Int) -> Int:
    """Whether exactly `count` messages with their lengths fill data[at:end]."""
    for _ in range(count):
        if at + 2 > end:
            return False
        at += 2 + be16(data, at)
    return at == end
