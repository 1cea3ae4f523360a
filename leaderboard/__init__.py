"""The static leaderboard: runs in, a folder of web pages out."""

#: Other distributions on PyPI are called `leaderboard` too, and pip overwrites silently: whoever
#: imports this package looks for the marker first.
KARDIABENCH_PACKAGE = True
