"""Emotion classifiers that were never trained on the persona whose words they classify."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kardiabench.errors import DataError
from kardiabench.records import Message, Turn

#: The most classifiers fitted when personas that are asked about occur in the train split: they
#: are then left out in groups. With no more personas than this, each is left out alone.
MAX_FOLDS = 16
#: Words a classifier knows, those of the most turns first: bounds its weights to 32 labels x this.
MAX_WORDS = 50_000

_Predict = Callable[[Sequence[str]], list[str]]


def document(messages: Iterable[Message]) -> str:
    """The text that is classified: the user's messages so far, the last one twice for weight."""
    said = [message.content for message in messages if message.role == "user"]
    return "\n".join(said + said[-1:])


@dataclass(slots=True)
class _Rows:
    """The labels and personas of the training turns, in step."""

    labels: list[str] = field(default_factory=list)
    personas: list[str] = field(default_factory=list)

    def documents(self, turns: Iterable[Turn]) -> Iterator[str]:
        """Note each turn and pass on its document, so that the texts are never held together."""
        for turn in turns:
            self.labels.append(turn.gold_emotion)
            self.personas.append(turn.dialogue.persona_id)
            yield document(turn.history)


class Classifier(ABC):
    """Names the emotion of documents. Reads `turns` once.

    The personas among them are split into at most `MAX_FOLDS` groups. A document of one of them is
    classified by a fit on the other groups, any other document by a fit on all. Raises `DataError`
    when that leaves nothing to train on.
    """

    def __init__(self, turns: Iterable[Turn]) -> None:
        self._rows = _Rows()
        self._learn(self._rows.documents(turns))
        personas = sorted(set(self._rows.personas))
        self._folds = {persona: at % MAX_FOLDS for at, persona in enumerate(personas)}
        self._fits: dict[int | None, _Predict] = {}

    def classify(self, items: Sequence[tuple[str, str]]) -> list[str]:
        """The emotion of each (persona id, document), in order."""
        folds = [self._folds.get(persona) for persona, _ in items]
        emotions = [""] * len(items)
        for fold in dict.fromkeys(folds):
            asked = [at for at, other in enumerate(folds) if other == fold]
            found = self._predict(fold)([items[at][1] for at in asked])
            for at, emotion in zip(asked, found, strict=True):
                emotions[at] = emotion
        return emotions

    def _predict(self, left_out: int | None) -> _Predict:
        if left_out not in self._fits:
            self._fits[left_out] = self._fit(self._kept(left_out))
        return self._fits[left_out]

    def _kept(self, left_out: int | None) -> list[int]:
        personas = enumerate(self._rows.personas)
        kept = [at for at, persona in personas if self._folds[persona] != left_out]
        if not kept:
            raise DataError(
                "the train split has no turns of anybody but the persona who is answered: "
                "name another with --model-arg train=FILE_OR_DATASET"
            )
        return kept

    @abstractmethod
    def _learn(self, documents: Iterable[str]) -> None:
        """Take in the documents of all training turns, in one pass."""

    @abstractmethod
    def _fit(self, kept: Sequence[int]) -> _Predict:
        """A prediction that knows nothing of the training turns other than those `kept`."""


class Majority(Classifier):
    """Always the commonest label, the first in the alphabet among equals."""

    def _learn(self, documents: Iterable[str]) -> None:
        for _ in documents:
            pass

    def _fit(self, kept: Sequence[int]) -> _Predict:
        return _always_commonest([self._rows.labels[at] for at in kept])


class Tfidf(Classifier):
    """Logistic regression on TF-IDF of words (scikit-learn)."""

    _counter: Any  # CountVectorizer
    _counts: Any  # sparse: training turns x words

    def _learn(self, documents: Iterable[str]) -> None:
        import numpy as np
        from sklearn.feature_extraction.text import CountVectorizer

        self._counter = CountVectorizer(dtype=np.float32, token_pattern=r"\w+")  # noqa: S106 (words)
        try:
            self._counts = self._counter.fit_transform(documents)
        except ValueError as error:
            raise DataError(
                f"the users of the train split say no words to learn from ({error}): "
                "name another with --model-arg train=FILE_OR_DATASET"
            ) from error

    def _fit(self, kept: Sequence[int]) -> _Predict:
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.linear_model import LogisticRegression

        labels = [self._rows.labels[at] for at in kept]
        counts = self._counts[kept]
        words = _commonest_words(counts)
        if len(set(labels)) == 1 or not words.size:  # nothing to tell apart, or nothing to do it by
            return _always_commonest(labels)
        tfidf = TfidfTransformer(sublinear_tf=True)
        regression = LogisticRegression(C=10.0, tol=1e-3, max_iter=100)
        _fit_quietly(regression, tfidf.fit_transform(counts[:, words]), labels)

        def predict(documents: Sequence[str]) -> list[str]:
            found = self._counter.transform(documents)[:, words]
            return [str(label) for label in regression.predict(tfidf.transform(found))]

        return predict


def _always_commonest(labels: Sequence[str]) -> _Predict:
    counts = Counter(labels)
    commonest = min(counts, key=lambda label: (-counts[label], label))
    return lambda documents: [commonest] * len(documents)


def _commonest_words(counts: Any) -> Any:
    """The columns of words that occur in `counts`, at most `MAX_WORDS`, by their index."""
    import numpy as np

    turns = np.bincount(counts.indices, minlength=counts.shape[1])
    present = np.flatnonzero(turns)
    commonest = present[np.argsort(-turns[present], kind="stable")[:MAX_WORDS]]
    return np.sort(commonest)


def _fit_quietly(regression: Any, features: Any, labels: Sequence[str]) -> None:
    """Fit; that it stopped at `max_iter` is no news: a floor need not be the optimum."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression.fit(features, labels)
