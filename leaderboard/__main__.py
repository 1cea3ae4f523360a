"""`python -m leaderboard`: the same as `kardiabench leaderboard`."""

from kardiabench.cli import main

if __name__ == "__main__":
    main("leaderboard")
