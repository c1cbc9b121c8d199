"""Single-producer, single-consumer rings of cells in shared memory; compiled loops use `tapehouse.ring.kernels`."""

from tapehouse.ring.consumer import RingConsumer
from tapehouse.ring.layout import CELLS_MIN, RING_CELLS, WORDS, Policy
from tapehouse.ring.observer import RingObserver
from tapehouse.ring.place import default_directory, list_rings
from tapehouse.ring.producer import BLOCK_TIMEOUT_NS, RingFullError, RingProducer
from tapehouse.ring.ring import Ring, remove

__all__ = [
    "BLOCK_TIMEOUT_NS",
    "CELLS_MIN",
    "RING_CELLS",
    "WORDS",
    "Policy",
    "Ring",
    "RingConsumer",
    "RingFullError",
    "RingObserver",
    "RingProducer",
    "default_directory",
    "list_rings",
    "remove",
]
