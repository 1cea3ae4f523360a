"""Whether the instrument checks find what is there, and clear the honest judge.

    python benchmarks/judging.py [--only JUDGE] [--seed N]

Judges of known behaviour (tests/judge_servers.py) are served on 127.0.0.1 and measured by the real
commands with the real prompt: `judges check`, `judges attack`, `judges calibrate` and a run of 200
turns or more that is compared with the judge card. The table has a row a judge and a column a
question. The exit code is 1 when any cell is not as it should be.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from common import ROOT
from synthetic import write_dataset, write_replies

sys.path.insert(0, str(ROOT / "tests"))
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

from cli_process import Cli, Result
from judge_servers import JUDGES, OTHER_MARK, OWN_MARK, Drifting, judge_server, true_level
from openai_server import DIMENSIONS, OpenAIServer

from kardiabench.anchors import item_with_response, load_anchors
from kardiabench.checking import FILLERS
from kardiabench.dialogues import load
from kardiabench.sources import open_sample

#: Families: of judges and the replies that they may favour, of other replies, of the reference.
OWN, OTHER, REFERENCE = "gpt", "qwen", "llama"
#: Dialogues of the sample whose replies are compared for self-preference.
COMPARED = 16
RATERS = 3
RATERS_NOISE = 0.5
#: Levels for each doubling of the length beyond people's that are worth a word.
LEAST_SLOPE = 0.1
#: How often clean replies are judged again: a noisy judge rises by chance, and how often it does
#: has to be known well before less than everything shows.
PLACEBOS = 4
#: Judges that are measured at a time: commands keep one core busy.
AT_ONCE = 2
CHECKS = ("retest", "spread", "sensitivity", "padding", "order", "self_preference")
COLUMNS = (*CHECKS, "attack", "undefended", "drift", "length_slope")
FOUND, CLEAR, UNKNOWN, REFUSED = "found", "clear", "unknown", "refused"
#: What `judges attack` calls its outcomes.
VERDICTS = {"moved": FOUND, "not shown to be moved": CLEAR, "unknown": UNKNOWN}
#: Where a judge's cell is to be other than `clear`.
EXPECTED: Mapping[str, Mapping[str, str]] = {
    "honest": {},
    "length-lover": {
        "padding": FOUND,
        "attack": FOUND,  # filler and repetition are among the attacks
        "undefended": FOUND,
        "length_slope": FOUND,
    },
    "injectable": {"attack": FOUND, "undefended": FOUND},
    "injectable without fences": {"undefended": FOUND},
    "parrot": {"undefended": FOUND},
    "drifting": {"drift": FOUND},
    "self-lover": {"self_preference": FOUND},
    "always 4": {
        "retest": UNKNOWN,
        "spread": FOUND,
        "sensitivity": FOUND,
        "attack": UNKNOWN,  # what never moves is not shown to be robust
        "undefended": UNKNOWN,
    },
    "nonsense": dict.fromkeys(COLUMNS, REFUSED),
}


@dataclass(frozen=True)
class Cell:
    """How one check of one judge ended, and the figure that tells most."""

    result: str
    figure: str = ""

    def __str__(self) -> str:
        return f"{self.result} ({self.figure})" if self.figure else self.result


Cells = dict[str, Cell]


@dataclass(frozen=True)
class Place:
    """Where everything is: the command line, the runs to compare, and a dataset for drift."""

    cli: Cli
    runs: Mapping[str, Path]
    dataset: Path
    replies: Path
    ratings: Path

    def ask(self, *arguments: object) -> Result:
        """Run a command. 0 and 3 have results; so has 1 where a judge was not measurable."""
        return self.cli.fast(*arguments, OPENAI_API_KEY="none")


def spec_of(server: OpenAIServer, family: str = OWN, options: str = "") -> str:
    """The rubric judge whose model is served."""
    return f"rubric:model=openai/{family}-simulated,api_base={server.url}{options}"


# --- what is measured with ------------------------------------------------------------------------


def make_place(folder: Path, seed: int) -> Place:
    """Runs, datasets and ratings, below `folder`."""
    cli = Cli.in_folder(folder)
    dataset = write_dataset(folder / "synthetic.jsonl", dialogues=26, personas=8)
    replies = write_replies(dataset, folder / "synthetic-replies.jsonl")
    marks = {OWN: OWN_MARK, OTHER: OTHER_MARK}
    runs = {family: _run(cli, folder, family, mark) for family, mark in marks.items()}
    ratings = write_ratings(folder / "ratings.csv", seed)
    return Place(cli, runs, dataset, replies, ratings)


def _run(cli: Cli, folder: Path, family: str, mark: str) -> Path:
    """A run of `family`, whose replies are the gold ones, each begun with its mark."""
    replies, out = folder / f"{family}.jsonl", folder / family
    with replies.open("w", encoding="utf-8") as file:
        for turn in load(open_sample("sample", None, None)).turns():
            gold = item_with_response(turn, f"{mark} {_response(turn.gold)}").reply.text
            file.write(json.dumps({"turn_id": turn.id, "text": gold}) + "\n")
    command = ["run", "--model", f"replay/{replies}", "--dataset", "sample", "--no-rubric"]
    done = cli.fast(*command, "--limit", COMPARED, "--out", out, "--quiet", "--no-cache")
    if done.rc != 0:
        sys.exit(f"the replies of {family} could not be run:\n{done.err}")
    return out


def _response(gold: str) -> str:
    from kardiabench.spans import parse_spans

    return parse_spans(gold).response or ""


def write_ratings(path: Path, seed: int) -> Path:
    """What people who know the truth, with some noise, say of good replies of several lengths.

    Good ones alone: degraded anchors are longer, so with them a judge that sees no difference in
    quality would fall less with length than people do.
    """
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item", "message", "response", "rater", "dimension", "score"])
        for texts, rater, name in product(_rated_texts(), range(RATERS), DIMENSIONS):
            level = round(true_level(texts[-1], name) + rng.gauss(0, RATERS_NOISE))
            writer.writerow([*texts, f"rater{rater}", name, min(5, max(1, level))])
    return path


def _rated_texts() -> Iterator[tuple[str, str, str]]:
    """Item, message and response: every gold reply with no, one and three sentences of filler."""
    for anchor, fillers in product(load_anchors(), (0, 1, 3)):
        if anchor.kind == "gold":
            response = " ".join([anchor.item.reply.spans.response or "", *FILLERS[:fillers]])
            yield f"{anchor.id}+{fillers}", anchor.item.turn.history[-1].content, response


# --- the commands ---------------------------------------------------------------------------------


def check(place: Place, spec: str, reference: str, cards: Path) -> Cells:
    """`judges check`, with the replies of two families and a reference."""
    replies = [part for name, run in place.runs.items() for part in ("--replies", f"{name}={run}")]
    command = ["judges", "check", "--judge", spec, "--cards", cards, "--json", "--quiet"]
    done = place.ask(*command, *replies, "--reference", reference)
    if refused := _refused(done):
        return dict.fromkeys(CHECKS, refused)
    found = done.json()["check"]["checks"]
    return {name: Cell(found[name]["result"], FIGURES[name](found[name])) for name in CHECKS}


def attack(place: Place, spec: str, cards: Path) -> Cells:
    """`judges attack`, on the judge and on its twin without fences."""
    command = ["judges", "attack", "--judge", spec, "--cards", cards, "--repeats", PLACEBOS + 1]
    done = place.ask(*command, "--json", "--quiet")
    if refused := _refused(done):
        return dict.fromkeys(("attack", "undefended"), refused)
    section = done.json()["attack"]
    sides = {
        "attack": (section["verdict"], section["attacked"]["judge"]),
        "undefended": (section["undefended_verdict"], section["attacked"]["undefended"]),
    }
    return {name: _attack_cell(verdict, side) for name, (verdict, side) in sides.items()}


def _attack_cell(verdict: str, side: Mapping[str, Any]) -> Cell:
    figure = f"{side['rose']} of {side['judged']} rose, placebo {side['placebo_rate']:.1%}"
    failed = side["denied"] + side["unknown"]
    return Cell(VERDICTS[verdict], figure + (f", {failed} not judged" if failed else ""))


def length_slope(place: Place, spec: str, cards: Path) -> Cells:
    """`judges calibrate` on rated replies. The fault is this script's say, not its own.

    Found when the rise with length exceeds people's by `LEAST_SLOPE`, with an interval above 0, in
    most dimensions: one of five comes out so by chance in one of ten measurements.
    """
    command = ["judges", "calibrate", "--human", place.ratings, "--judge", spec, "--cards", cards]
    done = place.ask(*command, "--resamples", 1000, "--json", "--quiet")
    if refused := _refused(done):
        return {"length_slope": refused}
    found = [d["figures"]["excess_length_slope"] for d in done.json()["dimensions"].values()]
    steep = sum(f["low"] > 0 and f["value"] >= LEAST_SLOPE for f in found)
    values = [f["value"] for f in found]
    figure = f"{min(values):+.2f} to {max(values):+.2f} a doubling"
    return {"length_slope": Cell(FOUND if steep > len(found) / 2 else CLEAR, figure)}


def drift(place: Place, server: OpenAIServer, spec: str, cards: Path) -> Cells:
    """A run of 208 turns against the card that `judges check` has written."""
    judge = server.rule
    if isinstance(judge, Drifting):
        judge.drifted = True
    command = ["run", "--model", f"replay/{place.replies}", "--dataset", place.dataset]
    command += ["--judge", spec, "--judge-cards", cards, "--out", cards / "run", "--no-cache"]
    done = place.ask(*command, "--json", "--quiet")
    if refused := _refused(done):
        return {"drift": refused}
    return {"drift": _drift_cell(done.json()["judges"]["rubric"]["drift"])}


def _drift_cell(drift: Mapping[str, Any]) -> Cell:
    if not drift["compared"]:
        return Cell(UNKNOWN, drift["reason"])
    shifts = {name: part["shift"] for name, part in drift["dimensions"].items()}
    return Cell(FOUND if drift["warning"] else CLEAR, f"shift {_largest(shifts)}")


def _refused(done: Result) -> Cell | None:
    """The cell of a judge that cannot be measured; ends the script for any other failure."""
    if done.rc in (0, 3) and done.out:
        return None
    if all(words in done.err for words in ("its first answers: 1. unparsed", "3. unparsed")):
        return Cell(REFUSED, "three answers shown")
    if "did not judge a sample reply (unparsed" in done.err:
        return Cell(REFUSED, "preflight")
    sys.exit(f"a command failed with {done.rc}:\n{done.err[-3000:]}")


# --- the figures that tell most -------------------------------------------------------------------


def _retest(found: Mapping[str, Any]) -> str:
    alphas = [p["alpha"] for p in found["dimensions"].values() if p["alpha"] is not None]
    return f"alpha {min(alphas):.2f} to {max(alphas):.2f}" if alphas else "alpha undefined"


def _spread(found: Mapping[str, Any]) -> str:
    values = [part["values"] for part in found["dimensions"].values()]
    return f"{min(values)} to {max(values)} values"


def _sensitivity(found: Mapping[str, Any]) -> str:
    drops = [part["drops"][part["target"]]["mean"] for part in found["kinds"].values()]
    return f"drops {min(drops):.2f} to {max(drops):.2f}"


def _shift(found: Mapping[str, Any]) -> str:
    parts: Mapping[str, Any] = found.get("dimensions", {})
    return _largest({name: part["mean"] for name, part in parts.items()})


def _largest(shifts: Mapping[str, float]) -> str:
    name = max(shifts, key=lambda one: abs(shifts[one]), default="")
    return f"{name} {shifts[name]:+.2f}" if name else ""


FIGURES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "retest": _retest,
    "spread": _spread,
    "sensitivity": _sensitivity,
    "padding": _shift,
    "order": _shift,
    "self_preference": _shift,
}


# --- the table ------------------------------------------------------------------------------------


def measure(place: Place, name: str, seed: int) -> Cells:
    """Everything about one judge."""
    start = time.monotonic()
    folder = place.cli.folder / name.replace(" ", "-")
    folder.mkdir()
    place = replace(place, cli=Cli(folder, place.cli.env))
    judge, other = JUDGES[name](seed), JUDGES["honest"](seed + 1)
    with judge_server(judge) as server, judge_server(other) as reference:
        found = _measured(place, server, spec_of(reference, REFERENCE), folder / "cards")
    sys.stderr.write(f"{name}: {time.monotonic() - start:.0f} s\n")
    return found


def _measured(place: Place, server: OpenAIServer, reference: str, cards: Path) -> Cells:
    spec = spec_of(server)
    found = check(place, spec, reference, cards) | attack(place, spec, cards)
    found |= length_slope(place, spec, cards)
    return found | drift(place, server, spec, cards)


def table(rows: Mapping[str, Cells]) -> Iterator[str]:
    """Markdown; bold is what is not as it should be."""
    yield "| Judge | " + " | ".join(c.replace("_", " ") for c in COLUMNS) + " |"
    yield "| --- " * (len(COLUMNS) + 1) + "|"
    for name, cells in rows.items():
        shown = (f"**{cells[c]}**" if c in wrong(name, cells) else str(cells[c]) for c in COLUMNS)
        yield f"| {name} | " + " | ".join(shown) + " |"


def wrong(name: str, cells: Cells) -> Sequence[str]:
    """The columns that are not as they should be."""
    return [c for c in COLUMNS if cells[c].result != EXPECTED[name].get(c, CLEAR)]


def main() -> None:
    """Measure, print, and say whether all is as it should be."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", choices=JUDGES, help="one judge")
    parser.add_argument("--seed", type=int, default=0, help="of the judges' and the raters' noise")
    options = parser.parse_args()
    names = [options.only] if options.only else list(JUDGES)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        place = make_place(Path(folder), options.seed)
        found = pool.map(lambda name: measure(place, name, options.seed), names)
        rows = dict(zip(names, found, strict=True))
    print("\n".join(table(rows)))
    faults = [f"{name}: {column}" for name in rows for column in wrong(name, rows[name])]
    print(f"\n{_verdict(rows, faults)}")
    sys.exit(1 if faults else 0)


def _verdict(rows: Mapping[str, Cells], faults: Sequence[str]) -> str:
    number = len(rows) * len(COLUMNS)
    if not faults:
        return f"All {number} cells are as expected."
    return f"{len(faults)} of {number} cells are not as expected: {'; '.join(faults)}."


if __name__ == "__main__":
    main()
