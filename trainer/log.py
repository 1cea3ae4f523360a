"""`log.jsonl`: what TRL logs, one line a logged step, beside the ledger."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kardiabench.files import Log, lines_of

if TYPE_CHECKING:
    from transformers import TrainerCallback

LOG = "log.jsonl"


def LogFile(path: Path) -> TrainerCallback:  # noqa: N802  # a class, made late
    """A callback that appends what is logged to the file at `path`, on the first process."""
    from transformers import TrainerCallback

    class LogFileCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def __init__(self) -> None:
            self._log: Log | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            if state.is_world_process_zero:
                self._log = Log(path)
                self._log.append(_line({"resumed_at": state.global_step}))

        def on_log(
            self,
            args: Any,  # noqa: ARG002
            state: Any,
            control: Any,  # noqa: ARG002
            logs: Mapping[str, Any] | None = None,
            **_: Any,
        ) -> None:
            if self._log is not None and logs:
                self._log.append(_line({"step": state.global_step, **logs}))

        def on_train_end(self, *_: Any, **__: Any) -> None:
            if self._log is not None:
                self._log.close()
                self._log = None

    return LogFileCallback()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines that count, in order; of steps that were done again, the last ones.

    Lines that are damaged are left out: the log decides nothing.
    """
    found: list[dict[str, Any]] = []
    for _, line in lines_of(path):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(entry, dict):
            continue
        back, step = entry.get("resumed_at"), entry.get("step")
        if isinstance(back, int):
            found = [one for one in found if back > 0 and one["step"] <= back]
        elif isinstance(step, int):
            found.append(entry)
    return found


def _line(entry: Mapping[str, Any]) -> bytes:
    plain = {key: _plain(value) for key, value in entry.items()}
    return json.dumps(plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, int | float | str | bool) or value is None else str(value)
