"""The pictures of the leaderboard, one chart a file: plain data in, an SVG string out."""

KARDIABENCH_PACKAGE = True
