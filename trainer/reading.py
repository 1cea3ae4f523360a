"""The training data and the test data of a recipe, read once: errors name the recipe's fields."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kardiabench.contracts import Identity
from kardiabench.dialogues import Dialogues, load
from kardiabench.errors import DataError, KardiaBenchError
from kardiabench.registry import Registry
from kardiabench.sampling import Selection

if TYPE_CHECKING:
    from trainer.config import Data

_OPTION = re.compile(r"--(dataset|split|revision|on-bad-row|limit-personas|limit)\b")


def read_training(data: Data, registry: Registry) -> Dialogues:
    """The dialogues that the recipe chooses, before a subset is taken and personas are held out.

    A single file is its own `train` split. Raises `DataError` for data that cannot be read, and for
    the test split.
    """
    split = _split_of(data.dataset, data.split, "train", registry)
    with _in_recipe_words("data."):
        source = registry.open_dataset(data.dataset, split, data.revision)
        _refuse_test_split(data, source.identity)
        return load(source, Selection(data.limit, data.limit_personas), data.on_bad_row)


def read_test(data: Data, training: Dialogues, registry: Registry) -> Dialogues | str:
    """The test data; a sentence for the user where they cannot be read and that is allowed.

    Bad rows are left out. Raises `DataError` where they cannot be read, and where they are what is
    trained on.
    """
    try:
        test = _open_test(data, registry)
    except KardiaBenchError as error:
        if data.allow_unchecked:
            return f"it was not checked that no test data are trained on: {error}"
        raise DataError(
            f"it cannot be checked that no test data are trained on ({error}); name them by "
            "data.test_dataset and data.test_split, or set data.allow_unchecked: true"
        ) from error
    if test.identity == training.identity:
        raise _is_test(data, test.identity)
    return test


def _open_test(data: Data, registry: Registry) -> Dialogues:
    same = _is_same(data)
    name = data.dataset if data.test_dataset is None else data.test_dataset
    if data.test_dataset is None and _is_file(name, registry):
        raise DataError(f"{name} is one file, which has no test split of its own")
    split = _split_of(name, data.test_split, "test", registry)
    with _in_recipe_words("data.test_"):
        source = registry.open_dataset(name, split, data.revision if same else None)
        return load(source, on_bad_row="skip")


def _refuse_test_split(data: Data, identity: Identity) -> None:
    if _is_same(data) and identity.get("split") == data.test_split:
        raise _is_test(data, identity)


def _is_test(data: Data, identity: Identity) -> DataError:
    return DataError(
        f"data.split {identity.get('split')} of {data.dataset} is the test data, all of it; train "
        "on another split"
    )


def _is_same(data: Data) -> bool:
    return data.test_dataset in (None, data.dataset)


def _split_of(name: str, split: str | None, usual: str, registry: Registry) -> str | None:
    """`split`, or None for the `usual` one of a single file: that is the file as it is."""
    return None if split == usual and _is_file(name, registry) else split


def _is_file(name: str, registry: Registry) -> bool:
    return name not in registry.datasets and Path(name).expanduser().is_file()


@contextmanager
def _in_recipe_words(prefix: str) -> Iterator[None]:
    """Errors of `kardiabench run` advise options that a recipe has as fields."""
    try:
        yield
    except KardiaBenchError as error:
        text = _OPTION.sub(lambda found: prefix + found[1].replace("-", "_"), str(error))
        raise DataError(text) from error
