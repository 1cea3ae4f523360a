"""`kardiabench compare`: whole commands on real runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cli_process import Cli, Result, until
from openai_server import Behaviour, OpenAIServer, nonce_of
from rich.console import Console
from rundata import say

from kardiabench.compare_report import show_comparison
from kardiabench.dialogues import load
from kardiabench.records import Turn
from kardiabench.sources import open_sample

PLUGIN = ("--plugin", Path(__file__).parent / "pair_judges.py")
PAGE = (Path(__file__).resolve().parent.parent / "docs" / "compare.md").read_text("utf-8")
TURNS = 133
RUN = ("run", "--dataset", "sample", "--no-rubric", "--min-coverage", "0")


def turns() -> list[Turn]:
    return list(load(open_sample("sample", None, None)).turns())


def words(number: int) -> str:
    return say(response=" ".join(["MARKER", *["word"] * (number - 1)]))


def replay(cli: Cli, name: str, text: Callable[[int], str | None], *options: object) -> Path:
    """A run whose reply to the n-th turn is `text(n)`; none where that is None."""
    lines = [
        json.dumps({"turn_id": turn.id, "text": said})
        for number, turn in enumerate(turns())
        if (said := text(number)) is not None
    ]
    (cli.folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    done = cli.fast(*RUN, "--model", f"replay/{name}.jsonl", "--out", name, "--quiet", *options)
    assert done.rc in (0, 3), done.err
    return cli.folder / name


@pytest.fixture
def two(cli: Cli) -> Cli:
    """Runs `a` and `b`: `a` is longer in three turns of four, shorter in the fourth."""
    replay(cli, "a", lambda n: words(12 if n % 4 else 4 + n % 3))
    replay(cli, "b", lambda n: words(6 + n % 5))
    return cli


def compare(cli: Cli, a: str, b: str, judge: str, *options: object, **env: str) -> Result:
    return cli.fast("compare", a, b, "--judge", judge, *PLUGIN, *options, **env)


def read(cli: Cli, folder: str = "runs/compare-a-b") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((cli.folder / folder / "comparison.json").read_text())
    return found


def asked(cli: Cli) -> list[str]:
    file = cli.folder / "asked.txt"
    return file.read_text().split() if file.exists() else []


# --- judges of known behaviour ----------------------------------------------------------------


def test_a_judge_that_prefers_the_longer_is_found_out_by_the_regression(two: Cli) -> None:
    done = compare(two, "a", "b", "longer")
    assert done.rc == 0, done.err
    found = read(two)
    by_length = [(row["words_a"] > row["words_b"]) - (row["words_a"] < row["words_b"])
                 for row in found["cases"]]  # fmt: skip
    assert found["outcomes"] == {
        "wins": by_length.count(1), "ties": by_length.count(0), "losses": by_length.count(-1)
    }  # fmt: skip
    assert found["win_rate"]["mean"] > 0.6
    assert found["win_rate"]["p"] < 0.001
    assert found["length_controlled"]["rate"] is None
    assert "length alone" in found["length_controlled"]["why"]
    assert found["order"]["agree"] == found["order"]["cases"] == TURNS
    assert "length alone" in " ".join(done.out.split())


def test_swapping_the_runs_mirrors_the_comparison(two: Cli) -> None:
    assert compare(two, "a", "b", "longer").rc == 0
    assert compare(two, "b", "a", "longer").rc == 0
    ours, theirs = read(two), read(two, "runs/compare-b-a")
    assert ours["a"] == theirs["b"]
    assert ours["outcomes"]["wins"] == theirs["outcomes"]["losses"]
    for one, other in zip(ours["cases"], theirs["cases"], strict=True):
        assert one["turn_id"] == other["turn_id"]
        assert one["score"] == 1 - other["score"]
        assert (one["words_a"], one["words_b"]) == (other["words_b"], other["words_a"])
    rate, mirrored = ours["win_rate"], theirs["win_rate"]
    assert rate["mean"] == pytest.approx(1 - mirrored["mean"])
    assert rate["low"] == pytest.approx(1 - mirrored["high"])
    assert rate["p"] == pytest.approx(mirrored["p"])


def test_a_judge_that_prefers_the_first_shown_gives_ties_and_is_named_biased(two: Cli) -> None:
    done = compare(two, "a", "b", "firstly")
    assert done.rc == 0
    found = read(two)
    assert found["outcomes"] == {"wins": 0, "ties": TURNS, "losses": 0}
    assert found["win_rate"]["mean"] == found["length_controlled"]["rate"] == 0.5
    assert found["order"]["consistency"]["mean"] == 0.0
    assert found["order"]["first_shown"]["mean"] == 1.0
    assert found["order"]["first"] == TURNS


def test_ties_alone_have_no_interval_but_a_reason(two: Cli) -> None:
    assert compare(two, "a", "b", "even").rc == 0
    rate = read(two)["win_rate"]
    assert (rate["mean"], rate["low"], rate["high"], rate["p"]) == (0.5, None, None, None)
    assert rate["why"]


def test_baselines_say_the_same_and_tie(cli: Cli) -> None:
    for name in ("majority", "tfidf"):
        assert cli.fast(*RUN, "--model", f"baseline/{name}", "--out", name, "--quiet").rc == 0
    done = compare(cli, "majority", "tfidf", "longer", "--json")
    assert done.rc == 0, done.err
    assert done.json()["outcomes"] == {"wins": 0, "ties": TURNS, "losses": 0}
    assert done.json() == read(cli, "runs/compare-majority-tfidf")


# --- what is missing --------------------------------------------------------------------------


def test_failed_judgements_and_unanswered_turns_are_missing_by_reason(cli: Cli) -> None:
    replay(cli, "a", lambda n: None if n < 10 else words(9))
    replay(cli, "b", lambda n: None if n in (9, 11, 12) else words(7 + n % 5) + "ODD " * (n == 20))
    done = compare(
        cli, "a", "b", "longer", FAIL_ON="word word word word word word word word word wo"
    )
    assert done.rc == 3
    assert "--min-coverage" in done.sentence
    assert "resume RUN --retry-errors" in done.sentence
    found = read(cli)
    assert found["missing"]["A error: missing"] == 9
    assert found["missing"]["B error: missing"] == 2
    assert found["missing"]["A error: missing; B error: missing"] == 1
    failed = found["missing"]["judge unparsed"]
    assert failed == found["verdicts"]["unparsed"] > 10
    scored = [row for row in found["cases"] if row["score"] is not None]
    assert len(scored) == TURNS - 12 - failed == found["win_rate"]["scored"]
    assert found["coverage"] == pytest.approx(len(scored) / TURNS)
    assert sum(found["missing"].values()) == TURNS - len(scored)
    assert all(row["missing"] for row in found["cases"] if row["score"] is None)
    assert "Missing: " in done.out
    again = compare(cli, "a", "b", "longer", "--min-coverage", "0.5", "--quiet")
    assert (again.rc, again.out) == (0, "")


def test_only_failed_judgements_are_asked_for_again(two: Cli) -> None:
    assert compare(two, "a", "b", "longer", FAIL_ON=" ".join(["word"] * 11)).rc == 3
    first = asked(two)
    failed = [row["turn_id"] for row in read(two)["cases"] if row["missing"]]
    assert failed
    assert compare(two, "a", "b", "longer").rc == 0
    assert sorted(asked(two)[len(first) :]) == sorted(failed)
    done, whole = asked(two), read(two)
    again = compare(two, "a", "b", "longer")
    assert "133 are judged already" in again.err
    assert asked(two) == done
    assert read(two) == whole


def test_a_killed_comparison_goes_on_where_it_was(two: Cli) -> None:
    command = ("compare", "a", "b", "--judge", "longer", *PLUGIN, "--concurrency", 4)
    started = two.start(*command, SLOWLY="0.05")
    until(lambda: len(asked(two)) > 20)
    started.kill()
    before = len(asked(two))
    assert before < TURNS
    assert two.fast(*command).rc == 0
    assert TURNS <= len(asked(two)) <= TURNS + 4
    assert read(two)["coverage"] == 1.0


def test_a_judge_that_never_judges_ends_it_with_its_first_answers(two: Cli) -> None:
    done = compare(two, "a", "b", "longer", FAIL_ON="word")
    assert done.rc == 3
    assert "judged none of the first" in done.sentence
    assert "EVIDENCE" in done.sentence
    assert not (two.folder / "runs/compare-a-b/comparison.json").exists()


def test_a_side_without_a_response_is_counted_and_is_no_matter_of_length(cli: Cli) -> None:
    replay(cli, "a", lambda n: "no spans" if n == 3 else words(8 + n % 3))
    replay(cli, "b", lambda n: words(9))
    done = compare(cli, "a", "b", "longer")
    assert done.rc == 0
    assert read(cli)["words"]["without_response_a"] == 1
    assert "Cases in which A has no response to compare: 1." in done.out


# --- the cases --------------------------------------------------------------------------------


def test_a_larger_sample_pays_only_for_what_is_new(two: Cli) -> None:
    assert compare(two, "a", "b", "longer", "--cases", 16).rc == 0
    small = read(two)
    assert small["draw"] == {"asked": 16, "seed": 0, "turns": TURNS}
    assert {row["total"] for row in small["personas"].values()} == {2}
    assert compare(two, "a", "b", "longer", "--cases", 40).rc == 0
    assert len(asked(two)) == 40
    assert {row["turn_id"] for row in small["cases"]} < {r["turn_id"] for r in read(two)["cases"]}
    assert compare(two, "a", "b", "longer", "--cases", "all").rc == 0
    assert (len(asked(two)), read(two)["draw"]["asked"]) == (TURNS, None)
    assert compare(two, "a", "b", "longer", "--cases", "some").rc == 2


def test_any_two_runs_are_compared_on_the_same_cases(two: Cli) -> None:
    replay(two, "c", lambda n: words(5))
    assert compare(two, "a", "b", "longer", "--cases", 20, "--seed", 4).rc == 0
    assert compare(two, "c", "b", "longer", "--cases", 20, "--seed", 4).rc == 0
    one, other = read(two), read(two, "runs/compare-c-b")
    assert [r["turn_id"] for r in one["cases"]] == [r["turn_id"] for r in other["cases"]]


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--limit", "5"), "dataset.fingerprint"),
        (("--history-content", "response"), "prompts.history_content: spans and response"),
        (("--system-prompt", "kardia"), "prompts.system_prompt: dataset and kardia"),
    ],
)
def test_runs_that_do_not_share_turns_and_prompts_are_refused(
    cli: Cli, options: tuple[str, ...], named: str
) -> None:
    replay(cli, "a", lambda n: words(5))
    replay(cli, "b", lambda n: words(5), *options)
    done = compare(cli, "a", "b", "longer")
    assert done.rc == 2
    assert named in done.sentence
    assert not (cli.folder / "runs").exists()


def test_runs_that_differ_in_their_judges_alone_are_compared(cli: Cli) -> None:
    replay(cli, "a", lambda n: words(5))
    replay(cli, "b", lambda n: words(5), "--judge", "smoke")
    assert compare(cli, "a", "b", "even").rc == 0


def test_models_in_conversations_of_their_own_are_refused(cli: Cli) -> None:
    for name in ("a", "b"):
        replay(cli, name, lambda n: words(5), "--history", "free")
    done = compare(cli, "a", "b", "longer")
    assert done.rc == 2
    assert "--history free" in done.sentence


def test_a_run_is_not_compared_with_itself(two: Cli) -> None:
    done = compare(two, "a", "./b/../a", "longer")
    assert done.rc == 2
    assert "same run" in done.sentence


def test_a_judge_that_compares_nothing_is_refused(two: Cli) -> None:
    done = compare(two, "a", "b", "smoke")
    assert done.rc == 2
    assert "'preference'" in done.sentence
    assert not (two.folder / "runs").exists()


def test_a_folder_of_something_else_is_left_alone(two: Cli) -> None:
    replay(two, "c", lambda n: words(5))
    assert compare(two, "a", "b", "even", "--cases", 8, "--out", "out").rc == 0
    before = read(two, "out")
    other = compare(two, "c", "b", "even", "--out", "out")
    assert (other.rc, read(two, "out")) == (2, before)
    assert "other runs" in other.sentence
    run = compare(two, "a", "b", "even", "--out", "c")
    assert run.rc == 2
    assert "other files" in run.sentence


def test_judges_added_to_a_run_make_it_no_other_run(two: Cli) -> None:
    assert compare(two, "a", "b", "even", "--cases", 8).rc == 0
    assert two.fast("score", "a", "--judge", "smoke", "--quiet", "--min-coverage", 0).rc == 0
    assert compare(two, "a", "b", "even", "--cases", 8).rc == 0


def test_options_of_the_judges_model_reach_it(two: Cli) -> None:
    done = compare(two, "a", "b", "even", "--cases", 8, "--judge-model", "x/y")
    assert done.rc == 0, done.err
    assert read(two)["judge"]["identity"]["model"] == "x/y"
    kept = compare(two, "a", "b", "even:model=z", "--cases", 8, "--judge-model", "x/y")
    assert kept.rc == 0
    assert read(two)["judge"]["identity"]["model"] == "z"
    assert compare(two, "a", "b", "even", "--judge-model", "x,y").rc == 2
    assert compare(two, "a", "b", "even:api_key=sk-1").rc == 2


# --- the dataset ------------------------------------------------------------------------------


def test_a_dataset_that_moved_can_be_named_and_another_is_refused(cli: Cli) -> None:
    rows = sorted(sample_rows())
    (cli.folder / "data.jsonl").write_text("".join(rows[:8]))
    for name in ("a", "b"):
        done = cli.fast(
            *("run", "--dataset", "data.jsonl", "--no-rubric", "--model"),
            *("baseline/majority", "--model-arg", "train=sample", "--out", name, "--quiet"),
        )
        assert done.rc == 0, done.err
    (cli.folder / "data.jsonl").rename(cli.folder / "moved.jsonl")
    lost = compare(cli, "a", "b", "even")
    assert lost.rc == 2
    assert "--dataset" in lost.sentence
    assert compare(cli, "a", "b", "even", "--dataset", "moved.jsonl").rc == 0
    (cli.folder / "data.jsonl").write_text("".join(rows[:7]))
    changed = compare(cli, "a", "b", "even")
    assert changed.rc == 2
    assert "fingerprint" in changed.sentence


DATASET = """
from kardiabench.hookspecs import hookimpl
from kardiabench.sources import open_sample

KARDIABENCH_API = 1

@hookimpl
def register_datasets(register):
    register("mine", lambda name, split, revision: open_sample("sample", split, revision))
"""


def test_a_dataset_of_a_plugin_file_is_opened_through_the_file_that_the_run_used(cli: Cli) -> None:
    (cli.folder / "mine.py").write_text(DATASET)
    for name in ("majority", "tfidf"):
        done = cli.fast(
            *("run", "--model", f"baseline/{name}", "--dataset", "mine", "--plugin", "mine.py"),
            *("--model-arg", "train=sample", "--no-rubric", "--quiet", "--out", name),
        )
        assert done.rc == 0, done.err
    assert compare(cli, "majority", "tfidf", "even", "--cases", 8).rc == 0
    (cli.folder / "mine.py").unlink()
    lost = compare(cli, "majority", "tfidf", "even", "--cases", 8)
    assert lost.rc == 2
    assert "mine.py" in lost.sentence


def sample_rows() -> Iterator[str]:
    """Rows of the sample as a file has them."""
    from importlib.resources import files

    yield from (files("kardiabench.data") / "sample.jsonl").read_text("utf-8").splitlines(True)


# --- what is written --------------------------------------------------------------------------


def test_no_text_of_a_run_or_of_a_judge_is_in_the_comparison(two: Cli) -> None:
    assert compare(two, "a", "b", "longer", "--cases", 8).rc == 0
    folder = two.folder / "runs" / "compare-a-b"
    text = (folder / "comparison.json").read_text()
    assert "MARKER" not in text
    assert "EVIDENCE" not in text
    assert "EVIDENCE" in (folder / "journal.jsonl").read_text()


def test_the_page_names_every_key_and_no_other(two: Cli) -> None:
    assert compare(two, "a", "b", "longer", "--cases", 40, FAIL_ON=" ".join(["word"] * 11)).rc == 3
    documented = set(re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE))
    written = set(keys(read(two)))
    assert written <= documented, written - documented
    assert documented <= written, documented - written


OPEN = {"missing": "<reason>", "verdicts": "<status>", "personas": "<persona>"}
OTHERS = ("dataset", "judge.identity")  # told elsewhere


def keys(value: Any, path: str = "") -> Iterator[str]:
    if path in OTHERS:
        yield f"{path}.…"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            name = OPEN.get(path, key)
            yield from keys(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and path != "judge.own_family":
        for inner in value:
            yield from keys(inner, f"{path}[]")
    else:
        yield f"{path}[]" if isinstance(value, list) else path


def test_names_in_the_table_are_text_and_no_markup(two: Cli) -> None:
    assert compare(two, "a", "b", "longer", "--cases", 8).rc == 0
    found = read(two)
    found["a"]["model"] = "[red]x[/red]\x1b[31m"
    found["missing"] = {"[bold]why": 1}
    found["judge"]["own_family"] = ["b"]
    console = Console(width=200, record=True, file=(two.folder / "shown").open("w"))
    show_comparison(found, console)
    shown = console.export_text()
    assert "[red]x[/red]\N{REPLACEMENT CHARACTER}[31m (a)" in shown
    assert "[bold]why 1" in shown
    assert "model family of B" in shown


# --- the built-in judge -----------------------------------------------------------------------


def better(body: Mapping[str, Any]) -> Behaviour | None:
    """Prefer the response with more words, wherever it is shown."""
    user = str(body["messages"][-1]["content"])
    nonce = nonce_of(user)
    found = [re.search(rf"^\[{nonce} {p} response begins\]\n(.*)$", user, re.MULTILINE)
             for p in ("first", "second")]  # fmt: skip
    if not nonce or None in found:
        return None
    first, second = (len(json.loads(hit[1]).split()) for hit in found if hit)
    choice = "first" if first > second else "second" if second > first else "tie"
    answer = {"nonce": nonce, "preference": {"evidence": "more words", "better": choice}}
    return Behaviour(content=json.dumps(answer))


@pytest.mark.parametrize("samples", [1, 3])
def test_the_pairwise_judge_compares_over_the_wire(
    two: Cli, server: OpenAIServer, samples: int
) -> None:
    server.rule = better
    done = two.fast(
        *("compare", "a", "b", "--judge", f"pairwise:samples={samples}", "--cases", 16),
        *("--judge-model", "openai/gpt-anything", "--judge-api-base", server.url, "--retries", 0),
    )
    assert done.rc == 0, done.err
    assert f"up to {2 * samples * 16} calls" in done.err
    found = read(two)
    assert found["usage"]["calls"] == 2 * samples * 16
    assert found["judge"]["name"] == "pairwise"
    assert found["order"]["agree"] == found["order"]["cases"] == 16
    for row in found["cases"]:
        longer = (row["words_a"] > row["words_b"]) - (row["words_a"] < row["words_b"])
        assert row["score"] == row["first"] == row["second"] == (1 + longer) / 2
