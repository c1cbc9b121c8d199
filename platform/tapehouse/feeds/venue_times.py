"""Times of venues that write them as text: RFC 3339 in UTC, as nanoseconds and without a float."""

from __future__ import annotations

import re
from calendar import timegm
from datetime import datetime
from functools import lru_cache

from tapehouse.core.errors import DecodeError

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,18}))?(?:Z|\+00:?00)", re.ASCII)
_SECOND_NS = 1_000_000_000
_YEAR_MAX = 2261  # the last whole year of 64 bits of nanoseconds


def utc_ns(text: str) -> int:
    """`2023-10-06T17:35:55.440295Z` in UTC ns, 0 for no text; what is finer than a nanosecond is dropped.

    Raises:
        DecodeError: It is no such time, or none from 1970 to 2261.
    """
    if not text:
        return 0
    match = _TIME.fullmatch(text)
    try:
        seconds = _seconds(match[1], match[2]) if match is not None else None
    except ValueError:
        seconds = None
    if match is None or seconds is None:
        raise DecodeError(f"{text[:40]!r} is no time in UTC", hint="such as 2023-10-06T17:35:55.440295Z")
    return seconds * _SECOND_NS + int((match[3] or "")[:9].ljust(9, "0"))


@lru_cache(maxsize=256)  # messages of one second share it
def _seconds(day: str, time: str) -> int | None:
    when = datetime.strptime(f"{day} {time}", "%Y-%m-%d %H:%M:%S")
    return timegm(when.timetuple()) if 1970 <= when.year <= _YEAR_MAX else None
