"""The built-in judges, one file each. They are reached through `kardiabench.plugins` only."""

#: Other distributions on PyPI are called `judges` too, and pip overwrites silently:
#: `kardiabench.plugins` looks for this marker before it trusts the package.
KARDIABENCH_PACKAGE = True
