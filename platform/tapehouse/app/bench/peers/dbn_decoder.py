"""Databento's own DBN decoder, from a file's bytes to Python objects.

Called with one argument of JSON: `path`, `repeat`.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

try:
    from databento_dbn import Compression, DBNDecoder
except ImportError:
    sys.exit(3)


def main() -> None:
    told = json.loads(sys.argv[1])
    rates, records = [], 0
    for run in range(1 + told["repeat"]):
        start = time.perf_counter()
        with open(told["path"], "rb") as file:
            compression: Any = Compression.ZSTD if told["path"].endswith(".zst") else Compression.NONE
            decoder = DBNDecoder(compression=compression)
            decoder.write(file.read())
            records = len(decoder.decode())
        if run:
            rates.append(records / (time.perf_counter() - start))
    print(json.dumps({"version": version("databento-dbn"), "per_second": rates, "records": records}))


main()
