"""A KardiaBench plugin with one judge, `brevity`."""

from __future__ import annotations

from kardiabench.hookspecs import RegisterJudge, hookimpl

#: The version of the plugin API that this was written for.
KARDIABENCH_API = 1


@hookimpl
def register_judges(register: RegisterJudge) -> None:
    """Offer the judge by its dotted name: it is imported when somebody uses it."""
    register("brevity", "kardiabench_brevity.judge:build")
