"""How much of what the rubric judge sends is a beginning that other calls of the dialogue share.

    python benchmarks/prefix.py [DATASET]

For every dialogue of the sample (or of any dataset that `--dataset` takes): the tokens of the
longest common beginning of all its calls, times its calls, over all its tokens; by litellm's
tokenizer for gpt-4o. A provider that caches beginnings need not read these twice.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Iterator
from itertools import groupby

from kardiabench.contracts import ModelOptions
from kardiabench.dialogues import load
from kardiabench.models.api import ApiModel, load_litellm
from kardiabench.plugins import load_registry
from kardiabench.records import Item, Reply, Turn
from kardiabench.session import Models, judge_context
from kardiabench.settings import RunSettings

SPECS = ("rubric", "rubric:calls=each", "safety", "pairwise")
TARGET = 0.7


def prompts(judge: object, turns: list[Turn]) -> list[str]:
    items = [Item(turn, Reply(turn.id, turn.gold)) for turn in turns]
    return ["\n".join(m.content for m in judge.messages(item)) for item in items]  # type: ignore[attr-defined]


def shares(judge: object, dialogues: Iterator[list[Turn]], model: ApiModel) -> Iterator[float]:
    for turns in dialogues:
        sent = prompts(judge, turns)
        common = os.path.commonprefix(sent)  # noqa: RUF071 - of texts, character by character
        yield len(sent) * model.count_tokens(common) / sum(map(model.count_tokens, sent))


def main(dataset: str) -> None:
    load_litellm()
    registry = load_registry()
    models = Models(registry, RunSettings("(none)"))
    counter = ApiModel("openai/gpt-4o", ModelOptions())
    source = registry.open_dataset(dataset)
    turns = list(load(source).turns())
    print("| judge | dialogues | shared, mean | least |\n| --- | --- | --- | --- |")
    worst = 1.0
    for spec in SPECS:
        judge = registry.make_judge(spec, judge_context(models))
        grouped = (list(group) for _, group in groupby(turns, key=lambda t: t.dialogue.id))
        found = list(shares(judge, (g for g in grouped if len(g) > 1), counter))
        print(f"| `{spec}` | {len(found)} | {statistics.mean(found):.1%} | {min(found):.1%} |")
        if spec == "rubric":
            worst = min(found)
    sys.exit(0 if worst >= TARGET else f"the rubric shares less than {TARGET:.0%} in a dialogue")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sample")
