"""A log-linear histogram that a kernel records into: any int64 from 0 up, less than 1 % wrong, 7,424 words of memory.

Values below 256 have a bucket each; above, every octave has 128 of equal width, so a bucket is at most 1/128 of its
values wide. The tally behind the buckets keeps the exact smallest, largest, count and sum.

Source: G. Tene, HdrHistogram; the bucket arithmetic is the log-linear one of H. Schulzrinne's and others' libraries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tapehouse.book.bits import highest_bit
from tapehouse.core.kernel import Array, Int, kernel

SUB_BITS = 7
SUB_BUCKETS = 1 << SUB_BITS
EXACT_BELOW = 2 * SUB_BUCKETS
BUCKETS = (63 - SUB_BITS + 1) << SUB_BITS
# Words behind the buckets.
COUNT, SUM, LEAST, MOST, NEGATIVE = (BUCKETS + word for word in range(5))
WORDS = BUCKETS + 8
_NOTHING_YET = (1 << 63) - 1


@kernel(inline=True)
def bucket_of(value: Int) -> Int:
    """The bucket of a value >= 0."""
    octave = highest_bit(np.uint64(value)) - SUB_BITS
    if octave <= 0:
        return value
    return (octave << SUB_BITS) + (value >> octave)


@kernel(inline=True)
def record_value(histogram: Array, value: Int) -> None:
    """Count a value; one below 0 is counted as 0, and as NEGATIVE."""
    if value < 0:
        histogram[NEGATIVE] += 1
        value = 0
    histogram[bucket_of(value)] += 1
    histogram[COUNT] += 1
    histogram[SUM] += value
    if value < histogram[LEAST]:
        histogram[LEAST] = value
    if value > histogram[MOST]:
        histogram[MOST] = value


@kernel()
def record_values(histogram: Array, values: Array) -> None:
    """Count every value of an array."""
    for at in range(values.shape[0]):
        record_value(histogram, values[at])


def new_histogram() -> npt.NDArray[np.int64]:
    """An empty one."""
    words = np.zeros(WORDS, np.int64)
    words[LEAST] = _NOTHING_YET
    return words


def merged(histograms: Iterable[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """One that holds what all of them hold."""
    total = new_histogram()
    for words in histograms:
        least, most = min(total[LEAST], words[LEAST]), max(total[MOST], words[MOST])
        total += words
        total[LEAST], total[MOST] = least, most
    return total


def bucket_bounds(bucket: int) -> tuple[int, int]:
    """The lowest and highest value of a bucket."""
    if bucket < EXACT_BELOW:
        return bucket, bucket
    octave = (bucket >> SUB_BITS) - 1
    low = (bucket - (octave << SUB_BITS)) << octave
    return low, low + (1 << octave) - 1


def percentile(histogram: npt.NDArray[np.int64], fraction: float) -> int:
    """The value that a fraction (0 < fraction <= 1) of all values does not exceed: the top of its bucket, or the most.

    Raises:
        ValueError: It is empty, or there is no such fraction.
    """
    count = int(histogram[COUNT])
    if count == 0 or not 0.0 < fraction <= 1.0:
        raise ValueError(f"the {fraction} quantile of {count} values")
    rank = max(1, min(count, int(np.ceil(fraction * count))))
    bucket = int(np.searchsorted(np.cumsum(histogram[:BUCKETS]), rank))
    return min(bucket_bounds(bucket)[1], int(histogram[MOST]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What a histogram of counter readings says, in ns."""

    count: int
    mean: float
    p50: float
    p99: float
    p999: float
    most: float

    @classmethod
    def of(cls, histogram: npt.NDArray[np.int64], ns_per_count: float) -> Spread:
        """Read a histogram that is not empty."""
        count = int(histogram[COUNT])
        p50, p99, p999 = (percentile(histogram, fraction) * ns_per_count for fraction in (0.5, 0.99, 0.999))
        mean = int(histogram[SUM]) / count * ns_per_count
        return cls(count=count, mean=mean, p50=p50, p99=p99, p999=p999, most=int(histogram[MOST]) * ns_per_count)


__all__ = ["BUCKETS", "Spread", "bucket_bounds", "bucket_of", "merged", "new_histogram", "percentile", "record_value"]
