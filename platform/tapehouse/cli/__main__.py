"""`python -m tapehouse.cli`, the same as `tapehouse`."""

from tapehouse.cli.main import main

main()
