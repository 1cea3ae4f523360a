"""The runner for transformers' models that reads a shared beginning once.

The turns of a dialogue have prompts that go on from one another. Their trunk is read once; every
turn starts from the part of it that is its own prompt, and all turns are written together. Several
dialogues make a batch. Trunks that begin alike (a system prompt's fixed text) are read from where
they part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kardiabench.models.local.jobs import CancelledRunError, Counts, Job, Written
from kardiabench.models.local.out_of_memory import is_out_of_memory, release_memory
from kardiabench.models.local.planning import Group, Row, batches, distinct_tokens, plan
from kardiabench.models.local.planning import shared_length as shared
from kardiabench.models.local.prefix_attention import Memory, Step, running
from kardiabench.models.local.token_choice import Chooser

#: Scores of attention that one pass over rows may hold at a time, in numbers.
_MOST_SCORES = 1 << 26
#: Own slots that a row has beyond its prompt's tokens at first.
_FIRST_SLOTS = 64


@dataclass
class SharedPrefixRunner:
    """Runs `model`, a causal language model whose attention is `prefix_attention`'s."""

    model: Any
    max_rows: int
    max_tokens: int
    cancelled: Callable[[], bool] = lambda: False
    counts: Counts = field(default_factory=Counts)

    def run(self, jobs: Sequence[Job]) -> list[Written]:
        """One reply a job, in order; raises `CancelledRunError`.

        Out of memory, the batch is halved and asked again, down to a single row.
        """
        import torch

        written: dict[int, Written] = {}
        groups = plan(jobs)
        self.counts.prompt += sum(len(job.ids) for job in jobs)
        self.counts.distinct += distinct_tokens(groups)
        todo = list(batches(groups, self.max_rows, self.max_tokens))
        with torch.inference_mode():
            while todo:
                batch = todo.pop(0)
                done = self._write(batch)
                written |= self._give_way(batch) if done is None else done
                if done is None:
                    left = [g for b in [batch, *todo] for g in b if g.rows[0].place not in written]
                    todo = list(batches(left, self.max_rows, self.max_tokens))
                self.counts.batches += 1
        return [written[place] for place in range(len(jobs))]

    def _write(self, batch: Sequence[Group]) -> dict[int, Written] | None:
        """What the batch comes to; None when memory was not enough for it."""
        try:
            return _Batch(self, batch).write()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None  # here the traceback, and the batch with it, is gone

    def _give_way(self, batch: Sequence[Group]) -> dict[int, Written]:
        """Plan smaller batches from now on; what cannot be smaller has failed."""
        release_memory()
        self.counts.halvings += 1
        rows = sum(len(group.rows) for group in batch)
        if rows == 1:
            return {batch[0].rows[0].place: Written(out_of_memory=True)}
        self.max_rows = (rows + 1) // 2
        return {}

    def forward(self, step: Step, ids: Any, positions: Any, *, logits: bool = True) -> Any:
        """One pass; the logits (B, V) after the last token of each row, or None."""
        if self.cancelled():
            raise CancelledRunError
        with running(step) as cache:
            out = self.model(
                input_ids=ids,
                position_ids=positions,
                cache=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.counts.computed += ids.numel() if step.trunk is not None else 0
        return out.logits[:, -1] if logits else None


@dataclass
class _Line:
    """A row of the batch as it is written. `row` is None for one that fills up the rectangle."""

    row: Row | None
    chooser: Chooser | None = None
    written: Written = field(default_factory=Written)
    #: Own slots in use.
    length: int = 0

    @property
    def is_live(self) -> bool:
        """Whether it still wants tokens."""
        return self.row is not None and self.written.finish_reason is None


class _Batch:
    """One batch of groups: its memory, and what is written so far."""

    def __init__(self, runner: SharedPrefixRunner, groups: Sequence[Group]) -> None:
        self.runner, self.groups = runner, groups
        self.device = runner.model.device
        each = max(len(group.rows) for group in groups)
        self.lines = [
            _Line(group.rows[n] if n < len(group.rows) else None)
            for group in groups
            for n in range(each)
        ]
        for line in self.lines:
            if line.row is not None:
                line.chooser = Chooser(line.row.job)
                line.written.cached = line.row.cached
        longest = max(len(line.row.own) for line in self.lines if line.row)
        self.memory = Memory(
            trunks=len(groups),
            trunk_slots=max(len(group.trunk) for group in groups),
            rows=len(self.lines),
            own_slots=longest + _FIRST_SLOTS,
        )
        self.done: dict[int, Written] = {}

    def write(self) -> dict[int, Written]:
        """Everything, by the place of its job."""
        self._read_trunks()
        logits = self._read_rows()
        while True:
            self._choose(logits)
            self._pack()
            if not self.lines:
                return self.done
            logits = self._next()

    # --- reading ---------------------------------------------------------------------------------

    def _read_trunks(self) -> None:
        """Each trunk from where it parts from the one before."""
        import torch

        before: tuple[int, ...] = ()
        for index, group in enumerate(self.groups):
            trunk = group.trunk
            start = min(shared(before, trunk), max(len(trunk) - 1, 0)) if index else 0
            if start:
                self.memory.copy_trunk(index - 1, index, start)
            if trunk[start:]:
                step = Step(self.memory, trunk=index, start=start, used=len(trunk))
                ids = torch.tensor([trunk[start:]], device=self.device)
                positions = torch.arange(start, len(trunk), device=self.device)[None]
                self.runner.forward(step, ids, positions, logits=False)
            before = trunk

    def _read_rows(self) -> Any:
        """What each prompt has of its own, ends aligned; the logits after each prompt's end."""
        own = [line.row.own if line.row else (0,) for line in self.lines]
        for line, tokens in zip(self.lines, own, strict=True):
            line.length = len(tokens) if line.row else 0
        columns = max(map(len, own))
        slots = [self._slots(line, columns) for line in self.lines]
        aligned = [(0,) * (columns - len(tokens)) + tokens for tokens in own]
        self.runner.counts.computed += sum(len(line.row.own) for line in self.lines if line.row)
        logits = None
        for piece in self._pieces(columns):
            ids = [row[piece] for row in aligned]
            logits = self._pass(ids, [row[piece] for row in slots], used=columns)
        return logits

    def _slots(self, line: _Line, columns: int) -> list[int]:
        padding = [self.memory.own_slots] * (columns - line.length)
        return padding + list(range(line.length))

    def _pieces(self, columns: int) -> Iterator[slice]:
        """Columns in pieces whose attention scores fit."""
        heads = getattr(self.runner.model.config, "num_attention_heads", 32)
        each = len(self.lines) * heads * (self.memory.trunk_slots + columns)
        size = max(1, min(columns, _MOST_SCORES // each))
        return (slice(start, start + size) for start in range(0, columns, size))

    def _next(self) -> Any:
        """Read the token that each row has got last."""
        slots = []
        for line in self.lines:
            slots.append([line.length if line.is_live else -1])
            line.length += line.is_live
        used = max(line.length for line in self.lines)
        self.memory.grow(used)
        places = [[self.memory.own_slots if s < 0 else s for s in row] for row in slots]
        tokens = [[line.written.ids[-1] if line.is_live else 0] for line in self.lines]
        return self._pass(tokens, places, used=used)

    def _pass(
        self, ids: Sequence[Sequence[int]], slots: Sequence[Sequence[int]], *, used: int
    ) -> Any:
        import torch

        places = torch.tensor(slots, device=self.device)
        seen = torch.tensor([line.row.shared if line.row else 0 for line in self.lines])
        seen = seen.to(self.device)
        at = torch.where(places >= self.memory.own_slots, 0, places)
        step = Step(self.memory, slots=places, seen=seen, used=used)
        return self.runner.forward(step, torch.tensor(ids, device=self.device), at + seen[:, None])

    # --- writing ---------------------------------------------------------------------------------

    def _choose(self, logits: Any) -> None:
        """Give each live row its next token."""
        likeliest = logits.argmax(-1).tolist()
        for index, line in enumerate(self.lines):
            if line.is_live and line.chooser is not None:
                line.chooser.choose(line.written, logits[index], likeliest[index])
                self.runner.counts.written += 1

    def _pack(self) -> None:
        """Note what has ended; leave out its rows, and trunks that nobody reads any more."""
        import torch

        for line in self.lines:
            if line.row is not None and not line.is_live:
                self.done.setdefault(line.row.place, line.written)
        each = len(self.lines) // self.memory.trunks
        by_trunk = [
            [n for n in range(t * each, (t + 1) * each) if self.lines[n].is_live]
            for t in range(self.memory.trunks)
        ]
        alive = [t for t, rows in enumerate(by_trunk) if rows]
        most = max((len(rows) for rows in by_trunk), default=0)
        if not alive:
            self.lines = []
            return
        fewer = len(alive) * 2 <= self.memory.trunks
        trunks = alive if fewer else range(self.memory.trunks)
        if not fewer and most * 4 > each * 3:
            return
        rows, lines = [], []
        for t in trunks:
            kept = by_trunk[t]
            rows += kept + [t * each] * (most - len(kept))
            lines += [self.lines[n] for n in kept] + [_Line(None)] * (most - len(kept))
        chosen = torch.tensor(list(trunks)) if fewer else None
        self.memory.keep(chosen, torch.tensor(rows))
        self.lines = lines
