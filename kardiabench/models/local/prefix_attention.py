"""Attention over a shared beginning: many rows read one trunk's keys and values where they are.

transformers calls it as one of its attention functions, so that every model that goes through its
`AttentionInterface` can be run so. Softmax is taken once over the trunk's and the row's own
scores together, as ordinary attention does: nothing is approximated.

Shapes: D trunks, R rows to each, B = D*R rows in all, H query heads, K heads of keys and values,
Q queries a row, G slots of a trunk, S slots of a row's own, C the size of a head.
"""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

NAME = "kardiabench_shared_prefix"
#: Slots that a row's own buffer grows by, at least.
_STEP = 64
_ACTIVE: contextvars.ContextVar[Step] = contextvars.ContextVar("kardiabench_step")


class UnsupportedModelError(Exception):
    """The model's attention has parts that are not known here."""


@dataclass
class LayerMemory:
    """Keys and values of one layer: the trunks' (D, K, G, C) and the rows' own (B, K, S + 1, C).

    The last slot of a row is where padding is written; nobody reads it.
    """

    trunk: tuple[Any, Any] | None = None
    own: tuple[Any, Any] | None = None


@dataclass
class Memory:
    """All layers' keys and values of a batch. It stands in for transformers' cache."""

    trunks: int
    trunk_slots: int
    rows: int
    own_slots: int
    layers: list[LayerMemory] = field(default_factory=list)

    def layer(self, index: int) -> LayerMemory:
        """The memory of layer `index`."""
        while len(self.layers) <= index:
            self.layers.append(LayerMemory())
        return self.layers[index]

    def grow(self, slots: int) -> None:
        """Have room for `slots` of each row's own."""
        if slots <= self.own_slots:
            return
        more = max(slots - self.own_slots, self.own_slots, _STEP)
        for layer in self.layers:
            if layer.own is not None:
                layer.own = tuple(_longer(values, more) for values in layer.own)
        self.own_slots += more

    def keep(self, trunks: Any, rows: Any) -> None:
        """Keep these trunks (indices, or None: all) and these rows (indices), in that order."""
        for layer in self.layers:
            if trunks is not None and layer.trunk is not None:
                layer.trunk = (_taken(layer.trunk[0], trunks), _taken(layer.trunk[1], trunks))
            if layer.own is not None:
                layer.own = (_taken(layer.own[0], rows), _taken(layer.own[1], rows))
        self.trunks = self.trunks if trunks is None else len(trunks)
        self.rows = len(rows)

    def copy_trunk(self, source: int, target: int, length: int) -> None:
        """Give trunk `target` the first `length` slots of trunk `source`."""
        for layer in self.layers:
            for values in layer.trunk or ():
                values[target, :, :length] = values[source, :, :length]


@dataclass
class Step:
    """One forward pass: where its keys and values go, and what its queries may see.

    A pass over a trunk has `trunk` (its index) and `start` (slots that are there already). A pass
    over rows has `slots` (B, Q): where in its own memory each query stands, padding at
    `memory.own_slots`; `seen` (B,), the trunk slots that a row may see; and `used`, own slots in
    use.
    """

    memory: Memory
    trunk: int | None = None
    start: int = 0
    slots: Any = None
    seen: Any = None
    used: int = 0
    _masks: dict[tuple[int | None, Any], Any] = field(default_factory=dict)

    def store(self, index: int, keys: Any, values: Any) -> tuple[Any, Any]:
        """Keep what layer `index` computed; give what its queries may look at."""
        layer = self.memory.layer(index)
        if self.trunk is None:
            return self._store_own(layer, keys, values)
        if layer.trunk is None:
            shape = (self.memory.trunks, keys.shape[1], self.memory.trunk_slots)
            layer.trunk = (
                keys.new_zeros((*shape, keys.shape[-1])),
                values.new_zeros((*shape, values.shape[-1])),
            )
        end = self.start + keys.shape[2]
        for kept, new in zip(layer.trunk, (keys, values), strict=True):
            kept[self.trunk, :, self.start : end] = new[0]
        one = slice(self.trunk, self.trunk + 1)
        return layer.trunk[0][one, :, :end], layer.trunk[1][one, :, :end]

    def _store_own(self, layer: LayerMemory, keys: Any, values: Any) -> tuple[Any, Any]:
        import torch

        if layer.own is None:
            shape = (self.memory.rows, keys.shape[1], self.memory.own_slots + 1)
            layer.own = (
                keys.new_zeros((*shape, keys.shape[-1])),
                values.new_zeros((*shape, values.shape[-1])),
            )
        slots = self.slots.to(keys.device)
        rows = torch.arange(keys.shape[0], device=keys.device)[:, None].expand_as(slots)
        for kept, new in zip(layer.own, (keys, values), strict=True):
            kept[rows, :, slots] = new.transpose(1, 2)
        return layer.own[0][:, :, : self.used], layer.own[1][:, :, : self.used]

    def mask(self, window: int | None, device: Any) -> Any:
        """What queries may see: (Q, G) of a trunk, (D, R, 1, 1, Q, G + S) of rows; made once."""
        key = (window, device)
        if key not in self._masks:
            made = self._trunk_mask(window) if self.trunk is not None else self._row_mask(window)
            self._masks[key] = made.to(device)
        return self._masks[key]

    def _trunk_mask(self, window: int | None) -> Any:
        import torch

        end = int(self.used)
        queries = torch.arange(self.start, end)[:, None]
        keys = torch.arange(end)[None, :]
        seen = keys <= queries
        return seen if window is None else seen & (queries - keys < window)

    def _row_mask(self, window: int | None) -> Any:
        import torch

        memory, device = self.memory, self.slots.device
        at = torch.where(self.slots >= memory.own_slots, 0, self.slots)[:, :, None]  # (B, Q, 1)
        own = torch.arange(self.used, device=device)[None, None, :]
        of_own = own <= at
        trunk = torch.arange(memory.trunk_slots, device=device)[None, None, :]
        of_trunk = (trunk < self.seen[:, None, None]).expand(-1, at.shape[1], -1)
        if window is not None:
            of_own = of_own & (at - own < window)
            of_trunk = of_trunk & (at + self.seen[:, None, None] - trunk < window)
        both = torch.cat([of_trunk, of_own], dim=-1)
        return both.view(memory.trunks, -1, 1, 1, *both.shape[1:])


@contextmanager
def running(step: Step) -> Iterator[Any]:
    """Run a forward pass of a model as `step`; gives the cache to call the model with."""
    token = _ACTIVE.set(step)
    try:
        yield _cache_class()(step)
    finally:
        _ACTIVE.reset(token)


def register() -> str:
    """Make the attention function known to transformers; gives its name there."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)
    return NAME


def attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Any, None]:
    """Attention of `query` (B, H, Q, C) in the step that is running; gives (B, Q, H, C)."""
    unknown = [name for name in ("s_aux", "position_bias") if others.get(name) is not None]
    if unknown or attention_mask is not None or not getattr(module, "is_causal", True):
        raise UnsupportedModelError(f"its attention has {unknown or 'a mask'} of its own")
    step = _ACTIVE.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    shape = _Shape(module, scale, sliding_window, softcap)
    run = _of_rows if step.trunk is None else _of_trunk
    return run(step, shape, query, key, value), None


@dataclass(frozen=True)
class _Shape:
    """A layer's attention: scores are scaled, capped, and cut off behind a sliding window."""

    module: Any
    scale: float
    window: int | None
    softcap: float | None

    def scores(self, products: Any) -> Any:
        """Scores from products of scaled queries and keys."""
        if self.softcap is None:
            return products
        return (products / self.softcap).tanh() * self.softcap


def _of_trunk(step: Step, shape: _Shape, query: Any, key: Any, value: Any) -> Any:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    window = shape.window if shape.window is not None and key.shape[2] > shape.window else None
    if shape.softcap is not None:
        mask = step.mask(window, query.device)
        return _eager(shape, mask, query, key, value).transpose(1, 2)
    if step.start == 0 and window is None:
        whole = {"attention_mask": None, "is_causal": True}
    else:
        whole = {"attention_mask": step.mask(window, query.device)[None, None]}
    return sdpa_attention_forward(shape.module, query, key, value, scaling=shape.scale, **whole)[0]


def _eager(shape: _Shape, mask: Any, query: Any, key: Any, value: Any) -> Any:
    """Attention with capped scores, in pieces of queries so that the scores stay small."""
    import torch

    heads, groups = key.shape[1], query.shape[1] // key.shape[1]
    query = query * shape.scale  # first: products of half-precision numbers may not fit
    parts = []
    for start in range(0, query.shape[2], 256):
        piece = query[:, :, start : start + 256]
        grouped = piece.reshape(piece.shape[0], heads, groups * piece.shape[2], -1)
        scores = shape.scores(grouped @ key.transpose(-1, -2))
        scores = scores.view(piece.shape[0], heads, groups, piece.shape[2], -1)
        chances = _softmax(scores, mask[start : start + 256], query.dtype)
        mixed = chances.view(*grouped.shape[:3], -1) @ value
        parts.append(mixed.view(piece.shape[0], query.shape[1], piece.shape[2], -1))
    return torch.cat(parts, dim=2)


def _of_rows(step: Step, shape: _Shape, query: Any, key: Any, value: Any) -> Any:
    import torch

    layer = step.memory.layer(shape.module.layer_idx)
    rows, heads, queries, size = query.shape
    trunks, kv = step.memory.trunks, key.shape[1]
    each, groups = rows // trunks, heads // kv
    query = query * shape.scale
    own = query.reshape(rows, kv, groups * queries, size) @ key.transpose(-1, -2)
    products, slots = own.view(trunks, each, kv, groups, queries, -1), 0
    if layer.trunk is not None:
        slots = layer.trunk[0].shape[2]
        grouped = query.view(trunks, each, kv, groups, queries, size).transpose(1, 2)
        shared = grouped.reshape(trunks, kv, -1, size) @ layer.trunk[0].transpose(-1, -2)
        shared = shared.view(trunks, kv, each, groups, queries, slots).transpose(1, 2)
        products = torch.cat([shared, products], dim=-1)
    chances = _softmax(shape.scores(products), step.mask(shape.window, query.device), query.dtype)
    mixed = chances[..., slots:].reshape(rows, kv, groups * queries, -1) @ value
    mixed = mixed.view(trunks, each, kv, groups, queries, -1)
    if layer.trunk is not None:
        of_trunk = chances[..., :slots].transpose(1, 2).reshape(trunks, kv, -1, slots)
        of_trunk = of_trunk @ layer.trunk[1]
        mixed = mixed + of_trunk.view(trunks, kv, each, groups, queries, -1).transpose(1, 2)
    return mixed.reshape(rows, heads, queries, -1).transpose(1, 2)


def _softmax(scores: Any, mask: Any, dtype: Any) -> Any:
    import torch

    return scores.masked_fill(~mask, float("-inf")).softmax(-1, dtype=torch.float32).to(dtype)


def _longer(values: Any, more: int) -> Any:
    import torch

    shape = (*values.shape[:2], more, values.shape[3])
    return torch.cat([values, values.new_zeros(shape)], dim=2)


def _taken(values: Any, indices: Any) -> Any:
    return values.index_select(0, indices.to(values.device))


def _cache_class() -> Any:
    global _CACHE_CLASS  # noqa: PLW0603 - made once, when transformers is there
    if _CACHE_CLASS is None:
        _CACHE_CLASS = _make_cache_class()
    return _CACHE_CLASS


_CACHE_CLASS: Any = None


def _make_cache_class() -> Any:
    from transformers import Cache, DynamicLayer

    class StepCache(Cache):  # type: ignore[misc] # transformers has no types here
        """What transformers' models take for a cache: it hands everything to the step."""

        def __init__(self, step: Step) -> None:
            super().__init__(layer_class_to_replicate=DynamicLayer)
            self._step = step

        def update(
            self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any
        ) -> tuple[Any, Any]:
            return self._step.store(layer_idx, key_states, value_states)

        def get_seq_length(self, *_: Any) -> int:
            return self._step.start

    return StepCache
