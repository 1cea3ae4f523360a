"""Backends, one file each, reached through `kardiabench.plugins`."""
