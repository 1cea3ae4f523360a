"""`python -m kardiabench`."""

from kardiabench.cli import main

main()
