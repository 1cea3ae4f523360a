"""How long the check for test data in training data takes, and how much memory it needs.

    python benchmarks/leakage.py

Dialogues of KardiaBench's number and length: words by Zipf's law, every third sentence one of 3,000
stock phrases. Of twenty test dialogues and one test profile there is a copy in the training data,
with one word in twenty changed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator

import numpy as np

from kardiabench.contracts import RawRow, RowSource
from kardiabench.dialogues import Dialogues, load
from kardiabench.spans import render_spans
from trainer.leakage import check_leakage

VOCABULARY, STOCK, WORDS = 20_000, 3_000, 13
#: Sentences of the situation, then of what is said in turn: 51 and 27 words, as in KardiaBench.
SHAPE = (2, *(4, 2) * 8)
PROFILE = 10
COPIES = 20


class Writer:
    """Writes text that repeats itself."""

    def __init__(self, seed: int) -> None:
        shares = 1 / np.arange(1, VOCABULARY + 1)
        self.sums = np.cumsum(shares / shares.sum())
        self.rng = np.random.default_rng(0)
        self.stock = [self._words() for _ in range(STOCK)]
        self.rng = np.random.default_rng(seed)

    def text(self, sentences: int) -> str:
        """So many sentences of 13 words."""
        return ". ".join(self._sentence() for _ in range(sentences))

    def edited(self, text: str) -> str:
        """`text` with one word in twenty replaced."""
        words = text.split(" ")
        for at in self.rng.choice(len(words), len(words) // 20, replace=False):
            words[at] = "changed"
        return " ".join(words)

    def _sentence(self) -> str:
        if self.rng.random() < 1 / 3:
            return self.stock[int(self.rng.integers(STOCK))]
        return self._words()

    def _words(self) -> str:
        return " ".join(f"w{n}" for n in np.searchsorted(self.sums, self.rng.random(WORDS)))


def row(profile: str, texts: list[str]) -> dict[str, object]:
    """A row of the dataset: the situation, then what is said in turn."""
    messages = []
    for user, said in zip(texts[1::2], texts[2::2], strict=True):
        gold = render_spans("They hurt.", "They say so.", "sad", said)
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": gold}]
    return {
        "person": profile,
        "mbti": "INFP",
        "emotion": "sad",
        "situation": texts[0],
        "messages": messages,
    }


def source(part: str, rows: list[dict[str, object]]) -> RowSource:
    """The rows as a dataset in memory."""

    def stream() -> Iterator[RawRow]:
        return (RawRow(part, at, value) for at, value in enumerate(rows, 1))

    return RowSource(rows=stream, identity={"name": part})


def datasets(train: int, test: int) -> tuple[Dialogues, Dialogues]:
    """Training data of 639 personas and test data of 32."""
    writer = Writer(1)
    profiles = [writer.text(PROFILE) for _ in range(639 + 32)]
    texts = [[writer.text(n) for n in SHAPE] for _ in range(train + test)]
    profiles[32] = writer.edited(profiles[0])
    for at in range(COPIES):
        texts[test + at] = [writer.edited(text) for text in texts[at]]
    of_test = [row(profiles[at % 32], texts[at]) for at in range(test)]
    of_train = [row(profiles[32 + at % 639], texts[test + at]) for at in range(train)]
    return load(source("train", of_train)), load(source("test", of_test))


def peak() -> float:
    """The most memory that this process had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--train", type=int, default=19_533)
    parser.add_argument("--test", type=int, default=2_547)
    options = parser.parse_args()
    train, test = datasets(options.train, options.test)
    before, start = peak(), time.perf_counter()
    notes = check_leakage(train, test)
    seconds = time.perf_counter() - start
    sys.stdout.write(
        f"{options.train} x {options.test} dialogues: {seconds:.1f} s, {peak() - before:.0f} MiB "
        "more\n" + "\n".join(notes) + "\n"
    )


if __name__ == "__main__":
    main()
