"""`hf/` against lm-eval's HF backend and a plain `generate` loop: same model, prompts and limits.

    pip install -c constraints.txt -e '.[hf]' -r tests/requirements-real-model.txt
    python3 -m venv /tmp/lm-eval --system-site-packages; /tmp/lm-eval/bin/pip install lm-eval
    python benchmarks/local_speed.py --lm-eval /tmp/lm-eval/bin/python

Each contender runs in a process of its own, in turn, and so for every round; loading the model is
not counted. lm-eval is run with each batch size of `--batches`, and compared by its fastest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from common import child, spread
from gemma import gemma_folder
from synthetic import write_dataset

from kardiabench.dialogues import load
from kardiabench.models.local.chat import plain_text
from kardiabench.prompts import PromptPlan
from kardiabench.sources import open_path

HERE = Path(__file__).resolve().parent


def write_prompts(folder: Path, dialogues: int, turns: int) -> tuple[Path, int]:
    """Synthetic dialogues of `turns` turns as prompts; the file, and how many there are."""
    data = folder / "dialogues.jsonl"
    write_dataset(data, dialogues=dialogues, personas=dialogues, exchanges=turns)
    plan = PromptPlan()
    prompts = []
    for turn in load(open_path(str(data), None, None)).turns():
        messages = plan.messages(turn)
        prompts.append(
            {
                "dialogue": turn.dialogue.id,
                "text": plain_text(messages),
                "messages": [{"role": m.role, "content": m.content} for m in messages],
            }
        )
    file = folder / "prompts.json"
    file.write_text(json.dumps(prompts))
    return file, len(prompts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(tempfile.gettempdir()) / "gemma-3-270m")
    parser.add_argument("--lm-eval", help="Python that has lm-eval; left out without it")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="of lm-eval")
    parser.add_argument("--dialogues", type=int, default=4)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    model = gemma_folder(given.model)
    contenders = {"ours": sys.executable, "plain": sys.executable}
    if given.lm_eval:
        contenders |= {f"lm-eval:{batch}": given.lm_eval for batch in given.batches}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        file, number = write_prompts(Path(temporary), given.dialogues, given.turns)
        for _ in range(given.rounds):
            for name, python in contenders.items():
                found[name] = child(
                    python,
                    HERE / "contender_local.py",
                    *(name, str(model), str(file), str(given.max_tokens), given.dtype),
                )
                seconds[name].append(found[name]["seconds"])
                print(f"{name}: {found[name]['seconds']:.1f} s", file=sys.stderr)
    report(found, seconds, number, given)


def report(
    found: dict[str, dict], seconds: dict[str, list[float]], number: int, given: argparse.Namespace
) -> None:
    mine = found["ours"]
    print(
        f"{number} turns of {given.dialogues} dialogues, {given.dtype}, {mine['threads']} threads"
    )
    print(f"prompt tokens asked for {mine['prompt']}, distinct {mine['distinct']}, computed ")
    print(f"{mine['computed']}: {mine['computed'] / mine['distinct']:.3f} (target 1.1)")
    for name, times in seconds.items():
        same = statistics.mean(
            a == b for a, b in zip(mine["texts"], found[name]["texts"], strict=True)
        )
        quotient = [a / b for a, b in zip(seconds["ours"], times, strict=True)]
        print(
            f"{name:<10} {spread(times)} s; ours is {spread(quotient)} of it; same text {same:.0%}"
        )
    rivals = [name for name in seconds if name.startswith("lm-eval")]
    if rivals:
        best = min(rivals, key=lambda name: statistics.median(seconds[name]))
        quotient = [a / b for a, b in zip(seconds["ours"], seconds[best], strict=True)]
        print(f"of lm-eval at its fastest ({best}): {spread(quotient)} (target 0.4)")


if __name__ == "__main__":
    main()
