"""`tapehouse` as on another machine: `python -m tests.support.elsewhere MACHINE ARGUMENTS…`.

The process says that it is of this boot of that machine, so that no other can look whether it lives.
"""

from __future__ import annotations

import sys

from tapehouse.app import leadership
from tapehouse.cli.main import main

if __name__ == "__main__":
    machine = sys.argv.pop(1)
    leadership._where = lambda: f"{machine}/pid:[1]"
    main()
