"""The other process of the ring's benchmark: attaches as consumer, says so, takes what comes, and says what it was.

Called with a line of JSON: name, directory, count, verify.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tapehouse.app.bench.ring_loops import consume
from tapehouse.ring import Ring

SPINS = 50_000_000  # between two looks whether the producer lives: a second or so


def main() -> None:
    """Consume, and report."""
    told = json.loads(sys.argv[1])
    count = int(told["count"])
    with Ring.consume(told["name"], directory=Path(told["directory"])) as ring:
        consume(ring.address, 0, 0, 1, 1)  # compiled before anybody measures
        print("ready", flush=True)
        number, wrong = 0, 0
        while number < count:
            following, bad = consume(ring.address, number, count, int(told["verify"]), SPINS)
            wrong += bad
            if following == number and not ring.producer_alive():
                break
            number = following
        print(json.dumps({"received": number, "wrong": wrong}), flush=True)


if __name__ == "__main__":
    main()
