"""Test data in training data: what is shared is refused, what is nearly the same is reported.

Two texts are nearly the same when the cosine of their sets of word triples is at least
`THRESHOLD`: the geometric mean of the shares of each one's triples that the other has. Unlike exact
ids it finds a copy of which one word in five was changed, and a text of which the other is a
quarter (0.8^3 and 0.25^0.5 are both about a half). A text of fewer than three words is never found.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from heapq import nlargest
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from kardiabench.dialogues import Dialogues
from kardiabench.errors import DataError
from kardiabench.records import Dialogue
from kardiabench.spans import parse_spans

THRESHOLD = 0.5

_T = TypeVar("_T")

_TRIPLE = 3
_FEATURES = 2**20
_BLOCK = 512
_SHOWN = 3
#: Words, and single characters of the scripts that put no space between words.
_WORD = r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+"


class Named(NamedTuple):
    """A text and whose it is."""

    id: str
    text: str


class Pair(NamedTuple):
    """Two texts that are nearly the same: `likeness` is their cosine, in [0.5, 1]."""

    likeness: float
    test: str
    train: str


def check_leakage(
    train: Dialogues, test: Dialogues, texts: Iterable[Dialogue] | None = None
) -> tuple[str, ...]:
    """Sentences on near-duplicates of test dialogues, profiles and situations in training data.

    Raises `DataError` when a dialogue or a persona of the test data is in the training data.
    `texts` are the dialogues of `train` that are compared: None for all, read again; () for none,
    so that ids alone are checked, which takes no time. Of the test data some 5 kB a dialogue are
    held in memory, of the training data a block at a time.
    """
    _refuse_shared("dialogue", _ids(train), _ids(test))
    _refuse_shared("persona", _personas(train), _personas(test))
    texts = train if texts is None else texts
    return () if texts == () else _near_duplicates(texts, test)


def _ids(dialogues: Dialogues) -> set[str]:
    return {entry.id for entry in dialogues.entries}


def _personas(dialogues: Dialogues) -> set[str]:
    return {entry.persona_id for entry in dialogues.entries}


def _refuse_shared(what: str, train: Collection[str], test: set[str]) -> None:
    shared = sorted(test.intersection(train))
    if shared:
        raise DataError(
            f"{len(shared)} of the {len(test)} {what}s of the test data are in the training data "
            f"(the first is {shared[0]}), so that a test would measure memory; leave the rows of "
            f"these {what}s out of the training data, or give another data.split"
        )


def _near_duplicates(train: Iterable[Dialogue], test: Dialogues) -> tuple[str, ...]:
    kinds = (
        Matches("dialogue", lambda dialogue: Named(dialogue.id, spoken(dialogue))),
        Matches("profile", lambda dialogue: Named(dialogue.persona_id, dialogue.profile)),
        Matches("situation", lambda dialogue: Named(dialogue.id, dialogue.situation)),
    )
    for block in _blocks(test):
        for kind in kinds:
            kind.look_for(block)
    for block in _blocks(train):
        for kind in kinds:
            kind.look_in(block)
    return tuple(sentence for kind in kinds if (sentence := kind.sentence) is not None)


def spoken(dialogue: Dialogue) -> str:
    """What is compared of a dialogue: its situation, the user's messages and the responses.

    Not the system prompt, which many dialogues share, and not the other three spans, which follow
    from what is said.
    """
    texts = [dialogue.situation]
    for message in dialogue.messages:
        if message.role == "user":
            texts.append(message.content)
        elif message.role == "assistant":
            texts.append(parse_spans(message.content).response or message.content)
    return "\n".join(texts)


class Matches:
    """The pairs of a test text and a training text that are nearly the same.

    `what` the texts are, and how `named` takes one from a dialogue. No text is kept.
    """

    def __init__(self, what: str, named: Callable[[Dialogue], Named]) -> None:
        self.what = what
        self.n_pairs = 0
        self.likest: list[Pair] = []
        self._named = named
        self._test: dict[str, None] = {}
        self._train: set[str] = set()
        self._found: set[str] = set()
        self._vectors: list[Any] = []

    def look_for(self, test: Iterable[Dialogue]) -> None:
        """Take texts of the test data, before any of the training data."""
        texts = self._new(test, self._test)
        if texts:
            self._vectors.append(_vectors(texts))
            self._test.update(dict.fromkeys(named.id for named in texts))

    def look_in(self, train: Iterable[Dialogue]) -> None:
        """Look for the test texts among those of the training data."""
        texts = self._new(train, self._train)
        if not texts:
            return
        self._train.update(named.id for named in texts)
        cosines = (_vectors(texts) @ self._columns).tocoo()
        near = cosines.data >= THRESHOLD
        places = zip(cosines.row[near], cosines.col[near], cosines.data[near], strict=True)
        pairs = [Pair(float(c), self._ids[column], texts[row].id) for row, column, c in places]
        self.n_pairs += len(pairs)
        self._found.update(pair.test for pair in pairs)
        self.likest = nlargest(_SHOWN, [*self.likest, *pairs])

    @property
    def sentence(self) -> str | None:
        """What was found; None for nothing."""
        if not self.n_pairs:
            return None
        shown = ", ".join(f"{p.test} and {p.train} ({p.likeness:.2f})" for p in self.likest)
        return (
            f"near-duplicates of {self.what}s: {len(self._found)} of {len(self._test)} in the test "
            f"data have one in the training data ({self.n_pairs} pairs; test and training, the "
            f"likest first, with the likeness of their word triples: {shown}); look at them, and "
            "leave copies out of the training data"
        )

    def _new(self, dialogues: Iterable[Dialogue], known: Collection[str]) -> list[Named]:
        """The texts, one an id, of ids that are not known yet."""
        texts = {named.id: named for named in map(self._named, dialogues)}
        return [named for id_, named in texts.items() if id_ not in known]

    @cached_property
    def _ids(self) -> list[str]:
        return list(self._test)

    @cached_property
    def _columns(self) -> Any:
        from scipy.sparse import vstack

        return vstack(self._vectors).T.tocsr()


def _vectors(texts: Sequence[Named]) -> Any:
    """The set of word triples of each text as a row of length 1: a sparse matrix."""
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(
        ngram_range=(_TRIPLE, _TRIPLE),
        token_pattern=_WORD,
        n_features=_FEATURES,
        alternate_sign=False,
        binary=True,
        dtype=np.float32,
    )
    return hashing.transform(named.text for named in texts)


def _blocks(items: Iterable[_T]) -> Iterator[list[_T]]:
    iterator = iter(items)
    while block := list(islice(iterator, _BLOCK)):
        yield block
