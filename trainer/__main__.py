"""`python -m trainer`: the same as `kardiabench train`."""

from kardiabench.cli import main

if __name__ == "__main__":
    main("train")
