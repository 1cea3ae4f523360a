"""The trainer: SFT and GRPO whose rewards are the benchmark's own scores."""

#: Other distributions on PyPI are called `trainer` too, and pip overwrites silently:
#: `kardiabench.plugins` looks for this marker before it trusts the package.
KARDIABENCH_PACKAGE = True
