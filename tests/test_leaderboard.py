"""The leaderboard: what is ranked, what is marked, what is left out, and what a build may touch."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from jsonschema import Draft202012Validator
from scipy import stats as scipy_stats
from site_runs import HOSTILE, MODELS, Made, write_run, write_runs
from statsmodels.stats.multitest import multipletests

from kardiabench import load_run
from kardiabench.bundle_packing import pack_run
from kardiabench.bundle_redaction import run_id
from kardiabench.errors import ConfigError, DataError, RunError
from leaderboard.site import Plan, build_site
from leaderboard.views import RunView, SiteView

FOUR = (
    Made("baseline/majority", 2.0, 0.03, seed=1),
    Made("a/one", 3.0, 0.3, seed=2),
    Made("b/two", 4.2, 0.6, seed=3),
    Made("c/three", 4.2, 0.6, seed=4),
)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, SiteView]:
    """The runs of `MODELS`, and the site that is made of them."""
    folder = tmp_path_factory.mktemp("everything")
    write_runs(folder / "runs")
    site = build(folder / "runs", folder / "site")
    return folder / "runs", folder / "site", site


def build(runs: Path | Sequence[Path], out: Path, **plan: Any) -> SiteView:
    paths = [runs] if isinstance(runs, Path) else list(runs)
    plan = {"cache": out.parent / "cache", "workers": 1} | plan
    return build_site(paths, out, Plan(**plan))


def by_name(site: SiteView) -> dict[str, RunView]:
    return {run.name: run for board in site.boards for run in (*board.runs, *board.unranked)}


def data(site: Path, key: str) -> Any:
    """What a data file puts."""
    text = (site / "data" / f"{key}.js").read_text("utf-8")
    found = re.fullmatch(
        r"kardiabench\.put\(\"([^\"]*)\",JSON\.parse\('(.*)'\)\);\n", text, re.DOTALL
    )
    assert found and found[1] == key
    return json.loads(re.sub(r"\\(.)", r"\1", found[2]))


# --- ranks ----------------------------------------------------------------------------------------


def test_ranked_are_whole_runs_floors_among_them(everything) -> None:
    _, _, site = everything
    ranked = {run.name for run in site.boards[0].runs}
    assert {"baseline/majority", "baseline/tfidf", "anthropic/drifted", "hf/half-judged"} <= ranked
    assert [r.kind for r in site.boards[0].runs if r.name.startswith("baseline/")] == ["floor"] * 2


def test_a_run_without_enough_judgements_or_turns_says_why_it_has_no_rank(everything) -> None:
    runs = by_name(everything[2])
    assert "covers" in runs["hf/little-judged"].why_unranked
    assert runs["hf/not-finished"].why_unranked.startswith("not finished: 20 of 133")
    for name in ("hf/little-judged", "hf/not-finished"):
        assert all(figure.rank is None for figure in runs[name].figures.values())


def test_runs_judged_by_smoke_are_never_ranked(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", [replace(made, judges=("smoke",)) for made in FOUR])
    site = build(tmp_path / "runs", tmp_path / "site")
    assert not site.boards[0].runs
    assert all("smoke test" in run.why_unranked for run in site.boards[0].unranked)
    assert not any(metric.key.startswith("smoke.") for metric in site.boards[0].metrics)
    assert "composite" not in {metric.key for metric in site.boards[0].metrics}


def test_models_that_cannot_be_told_apart_share_a_rank_and_the_worse_come_after(tmp_path) -> None:
    runs = by_name(build([*write_runs(tmp_path / "runs", FOUR)], tmp_path / "site"))
    ranks = {name: run.figures["composite"].rank for name, run in runs.items()}
    assert ranks == {"b/two": 1, "c/three": 1, "a/one": 3, "baseline/majority": 4}
    for run in runs.values():
        for figure in run.figures.values():
            if figure.rank is not None:
                assert figure.rank_low <= figure.rank <= figure.rank_high


def test_runs_of_different_protocols_stand_on_different_boards(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs" / "a", FOUR)
    write_runs(tmp_path / "runs" / "b", [replace(FOUR[1], judges=("rubric",))])
    site = build(tmp_path / "runs", tmp_path / "site")
    assert [len(board.runs) for board in site.boards] == [4, 1]
    assert site.boards[0].page == "index.html"
    assert all((tmp_path / "site" / board.page).exists() for board in site.boards)


def test_two_runs_of_one_model_are_both_shown_and_told_apart(everything) -> None:
    names = [name for name in by_name(everything[2]) if name.startswith("openai/fine-model")]
    assert sorted(names) == ["openai/fine-model (2026-11-01)", "openai/fine-model (2026-11-02)"]


# --- figures --------------------------------------------------------------------------------------


def persona_means(run: Path, column: str) -> pd.Series:
    opened = load_run(run)
    return opened.scores[column].groupby(opened.replies["persona_id"]).mean()


@pytest.mark.parametrize("column", ["composite", "emotion.emotion", "rubric.empathy"])
def test_intervals_are_scipys_over_persona_means(everything, column: str) -> None:
    runs, _, site = everything
    for number in (2, 5):  # one whole, one with judgements missing
        means = persona_means(runs / f"run-{number}", column)
        low, high = scipy_stats.t.interval(
            0.95, len(means) - 1, means.mean(), scipy_stats.sem(means)
        )
        made = [r for r in by_name(site).values() if r.model == MODELS[number].name]
        figure = min((r for r in made), key=lambda r: r.created).figures[column]
        assert (figure.mean, figure.low, figure.high) == pytest.approx((means.mean(), low, high))


def paired(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Persona means of two runs over the turns that both have a score for."""
    both = a.assign(score_b=b["score"].reindex(a.index)).dropna()
    return both.groupby("persona_id")[["score", "score_b"]].mean()


def scores_by_run(runs: Path, column: str) -> dict[str, pd.DataFrame]:
    found = {}
    for path in runs.iterdir():
        opened = load_run(path)
        frame = opened.replies[["persona_id"]].assign(score=opened.scores[column])
        found[run_id(opened.manifest)] = frame
    return found


def test_pairs_are_scipys_paired_t_tests_over_the_turns_that_both_have(everything) -> None:
    runs, site, view = everything
    board = view.boards[0]
    column = "rubric.empathy"
    scores = scores_by_run(runs, column)
    shown = {run.slug: scores[run.id] for run in (*board.runs, *board.unranked)}
    files = {slug: data(site, f"{board.protocol}/pairs/{slug}") for slug in shown}
    place = next(iter(files.values()))["metrics"].index(column)
    expected, seen = {}, {}
    for a, b in combinations(shown, 2):
        pair = paired(shown[a], shown[b])
        row, back = files[a]["rows"][b][place], files[b]["rows"][a][place]
        differences = pair["score"] - pair["score_b"]
        assert row[0] == pytest.approx(differences.mean(), abs=1e-6)
        assert row[8] == len(pair)
        if differences.std() > 1e-9:
            test = scipy_stats.ttest_rel(pair["score"], pair["score_b"])
            p, interval = test.pvalue, test.confidence_interval()
            assert row[1:3] == pytest.approx([interval.low, interval.high], abs=1e-6)
            assert [-row[0], -row[2], -row[1]] == pytest.approx(back[:3], abs=1e-6)
        else:  # two personas with the same difference: t is infinite, flipping signs is exact
            p = 2 * 0.5 ** len(pair)
            assert row[1:3] == [None, None]
        assert row[3] == pytest.approx(p, abs=1e-6)
        expected[a, b], seen[a, b] = p, row[5]
    ranked = {run.slug for run in board.runs}
    among = [pair for pair in expected if set(pair) <= ranked]
    holm = multipletests([expected[pair] for pair in among], method="holm")[1]
    assert [seen[pair] for pair in among] == pytest.approx(holm, abs=1e-5)
    every = dict(zip(expected, multipletests([*expected.values()], method="holm")[1], strict=True))
    rest = [pair for pair in expected if pair not in among]
    assert [seen[pair] for pair in rest] == pytest.approx([every[p] for p in rest], abs=1e-5)


def test_leaving_out_the_worst_turns_earns_no_rank(tmp_path: Path) -> None:
    """The same replies and verdicts, less the judgements of the 6% with the lowest empathy."""
    whole, cut = (
        write_run(tmp_path / name, replace(FOUR[1], created=f"2026-11-0{day}T12:00:00+00:00"))
        for day, name in enumerate(("whole", "cut"), 1)
    )
    lines = [json.loads(line) for line in (cut / "verdicts.jsonl").read_text().splitlines()]
    rubric = [line for line in lines if line["verdict"]["judge"] == "rubric"]
    rubric.sort(key=lambda line: line["verdict"]["scores"]["empathy"])
    for line in rubric[:8]:
        line["verdict"]["status"] = "unparsed"
        line["verdict"]["scores"] = dict.fromkeys(line["verdict"]["scores"])
    (cut / "verdicts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    site = build([whole, cut], tmp_path / "site")
    figures = [run.figures["rubric.empathy"] for run in site.boards[0].runs]
    assert len({figure.mean for figure in figures}) == 2
    assert [(f.rank, f.rank_low, f.rank_high) for f in figures] == [(1, 1, 2), (1, 1, 2)]


def test_runs_without_ranks_do_not_change_the_ranks_of_others(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", FOUR)
    few = write_runs(tmp_path / "few", [Made(f"few/{n}", stop_after=9, seed=n) for n in range(12)])
    alone = by_name(build(runs, tmp_path / "alone"))
    among = by_name(build([*runs, *few], tmp_path / "among"))
    for name, run in alone.items():
        assert among[name].figures == run.figures


def test_macro_f1_of_two_runs_differs_by_what_the_table_shows(everything) -> None:
    _, site, view = everything
    board = view.boards[0]
    a, b = board.runs[0], board.runs[-1]
    rows = data(site, f"{board.protocol}/pairs/{a.slug}")
    row = rows["rows"][b.slug][rows["metrics"].index("macro_f1")]
    shown = a.figures["macro_f1"].mean - b.figures["macro_f1"].mean
    assert row[0] == pytest.approx(shown, abs=1e-6)


@pytest.mark.parametrize("what", ["persona_id", "gold_emotion"])
def test_a_run_that_contradicts_the_others_of_its_protocol_is_left_out(tmp_path, what) -> None:
    runs = write_runs(tmp_path / "runs", FOUR)
    lines = (runs[1] / "replies.jsonl").read_text().splitlines()
    other = {"persona_id": "p" + "0" * 12, "gold_emotion": "proud"}[what]
    changed = [json.dumps(json.loads(line) | {what: other}) for line in lines]
    (runs[1] / "replies.jsonl").write_text("\n".join(changed) + "\n")
    site = build(runs, tmp_path / "site")
    assert [problem.name for problem in site.problems] == ["run-1"]
    assert len(by_name(site)) == 3


def test_bounds_hold_every_way_to_fill_in_what_is_missing(everything) -> None:
    run = by_name(everything[2])["hf/half-judged"]
    figure = run.figures["rubric.empathy"]
    assert figure.scored < figure.total == 133
    assert 1 <= figure.worst < figure.mean < figure.best <= 5
    opened = load_run(everything[0] / "run-5")
    for end, bound in ((1.0, figure.worst), (5.0, figure.best)):
        filled = opened.scores["rubric.empathy"].fillna(end)
        assert filled.groupby(opened.replies["persona_id"]).mean().mean() == pytest.approx(bound)


def test_macro_f1_has_an_interval_and_pairs(everything) -> None:
    _, site, view = everything
    board = view.boards[0]
    figure = board.runs[0].figures["macro_f1"]
    assert figure.low < figure.mean < figure.high
    rows = data(site, f"{board.protocol}/pairs/{board.runs[0].slug}")
    place = rows["metrics"].index("macro_f1")
    other = board.runs[1]
    assert rows["rows"][other.slug][place][3] is not None


def test_failures_of_the_model_of_judges_and_of_transport_are_kept_apart(everything) -> None:
    run = by_name(everything[2])["hf/half-judged"]
    kinds = {failure.whose for failure in run.failures}
    assert kinds == {"model", "judge", "transport"}
    assert all(
        "missing:response" in f.what or "unclosed" in f.what
        for f in run.failures
        if f.whose == "model"
    )
    assert run.malformed == pytest.approx(0.1, abs=0.08)


def test_a_drifted_judge_marks_the_run_and_its_card_is_linked(everything) -> None:
    _, site, view = everything
    runs = by_name(view)
    assert runs["anthropic/drifted"].drifted
    assert not runs["openai/fine-model (2026-11-01)"].drifted
    rubric = next(judge for judge in runs["anthropic/drifted"].judges if judge.name == "rubric")
    assert (site / str(rubric.card)).exists()
    assert "†" in (site / "index.html").read_text("utf-8")


def test_costs_without_a_price_are_missing_not_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "run", replace(FOUR[1], cost=None))
    run = next(iter(by_name(build(tmp_path / "run", tmp_path / "site")).values()))
    assert run.cost_per_turn is None
    assert run.judge_cost_per_turn == pytest.approx(2 * 0.0004)


# --- what machines read ---------------------------------------------------------------------------


def test_exports_are_the_table(everything) -> None:
    _, site, view = everything
    board = view.boards[0]
    table = pd.read_parquet(site / "exports" / f"{board.protocol}.parquet")
    with (site / "exports" / f"{board.protocol}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    records = json.loads((site / "exports" / f"{board.protocol}.json").read_text("utf-8"))
    assert len(table) == len(rows) == len(records) == len(board.metrics) * 10
    run = board.runs[0]
    mine = table[(table["run"] == run.id) & (table["metric"] == "composite")].iloc[0]
    assert mine["mean"] == run.figures["composite"].mean
    assert {"cost_per_turn", "rank_low", "coverage", "worst"} <= set(table.columns)


def test_no_cell_of_the_csv_is_a_formula(tmp_path: Path) -> None:
    write_run(tmp_path / "run", replace(FOUR[1], name="=HYPERLINK(1)"))
    board = build(tmp_path / "run", tmp_path / "site").boards[0]
    text = (tmp_path / "site" / "exports" / f"{board.protocol}.csv").read_text("utf-8")
    assert "'=HYPERLINK" in text
    assert ",=" not in text


def test_leaderboard_json_is_as_its_schema_says(everything) -> None:
    _, site, _ = everything
    schema = json.loads((site / "leaderboard.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    content = json.loads((site / "leaderboard.json").read_text("utf-8"))
    Draft202012Validator(schema).validate(content)
    assert len(content["protocols"][0]["runs"]) == 10
    content["protocols"][0]["runs"][0]["figures"]["composite"]["mean"] = "high"
    assert list(Draft202012Validator(schema).iter_errors(content))


def test_feed_is_atom_with_an_entry_a_run_the_newest_first(everything) -> None:
    atom = "{http://www.w3.org/2005/Atom}"
    root = ET.fromstring((everything[1] / "feed.xml").read_bytes())
    entries = root.findall(f"{atom}entry")
    assert len(entries) == 10
    assert entries[0].findtext(f"{atom}updated") == "2026-11-02T12:00:00+00:00"
    assert root.findtext(f"{atom}updated") == "2026-11-02T12:00:00+00:00"
    assert HOSTILE in [entry.findtext(f"{atom}title") for entry in entries]


def test_citation_names_the_protocol_and_the_paper(everything) -> None:
    text = (everything[1] / "cite.bib").read_text("utf-8")
    assert everything[2].boards[0].protocol in text
    assert "2512.01282" in text


# --- text -----------------------------------------------------------------------------------------


def test_the_samples_text_is_on_the_site(everything) -> None:
    _, site, view = everything
    board = view.boards[0]
    index = data(site, f"{board.protocol}/dialogues")
    texts = data(site, f"{board.protocol}/text-{index['shards'][0]}")
    assert texts[index["ids"][0]]["situation"].startswith(index["titles"][0][:40])
    slug = board.runs[0].slug
    turns = data(site, f"runs/{slug}/turns-0")
    assert turns["spans"][0]["response"].startswith("I hear you")
    assert HOSTILE in turns["evidence"][0]["rubric"]["empathy"]


def as_file(run: Path) -> Path:
    """Make a run on the sample one on a file of the user's."""
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["dataset"] = {"name": "/home/me/secret/gated.jsonl", "sha256": "0" * 64}
    path.write_text(json.dumps(manifest))
    return run


def everywhere(site: Path) -> str:
    files = [file for file in site.rglob("*") if file.is_file() and file.suffix != ".parquet"]
    return "\n".join(file.read_text("utf-8") for file in files)


def test_of_any_other_dataset_no_text_is_on_the_site(tmp_path: Path) -> None:
    made = replace(FOUR[1], responses={0: "what only the model said"})
    run = as_file(write_run(tmp_path / "run", made))
    board = build(run, tmp_path / "site").boards[0]
    assert not board.text
    shown = everywhere(tmp_path / "site")
    for words in ("only the model said", "They are low", "quotes “", "/home/me", "secret"):
        assert words not in shown
    turns = data(tmp_path / "site", f"runs/{board.runs[0].slug}/turns-0")
    assert turns["spans"] is turns["evidence"] is None
    assert turns["scores"]["rubric.empathy"][0] is not None
    assert data(tmp_path / "site", f"{board.protocol}/dialogues")["titles"] is None


def test_include_text_shows_it_where_the_dataset_is_named(tmp_path: Path) -> None:
    run = as_file(write_run(tmp_path / "run", FOUR[1]))
    with pytest.raises(DataError, match="--text-from"):
        build(run, tmp_path / "site", include_text=True)
    assert not (tmp_path / "site").exists()
    board = build(run, tmp_path / "site", include_text=True, text_from=["sample"]).boards[0]
    assert board.text
    assert "They are low" in everywhere(tmp_path / "site")


def test_a_dataset_that_is_called_sample_is_not_the_sample(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", FOUR[1])
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["dataset"]["sha256"] = "0" * 64
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert not build(run, tmp_path / "site").boards[0].text


def test_long_texts_are_cut_with_a_mark_and_no_file_is_over_2_mb(tmp_path: Path) -> None:
    long = {place: "ü" * 10_000_000 if place == 0 else "word " * 20_000 for place in range(30)}
    write_run(tmp_path / "run", replace(FOUR[1], responses=long))
    board = build(tmp_path / "run", tmp_path / "site").boards[0]
    sizes = [f.stat().st_size for f in (tmp_path / "site").rglob("*") if f.is_file()]
    assert max(sizes) < 2_000_000
    files = sorted((tmp_path / "site" / "data" / "runs" / board.runs[0].slug).glob("turns-*"))
    turns = [data(tmp_path / "site", f"runs/{file.parent.name}/{file.stem}") for file in files]
    responses = [span["response"] for part in turns for span in part["spans"]]
    assert len(responses) == 133
    assert sum(text.endswith("… (cut: 10,000,000 characters)") for text in responses) == 1


# --- bad input ------------------------------------------------------------------------------------


def damaged(run: Path, how: str) -> Path:
    match how:
        case "edited protocol":
            text = (run / "manifest.json").read_text()
            (run / "manifest.json").write_text(text.replace('"low": 1.0', '"low": 0.0', 1))
        case "half a manifest":
            text = (run / "manifest.json").read_text()
            (run / "manifest.json").write_text(text[: len(text) // 2])
        case "foreign manifest":
            (run / "manifest.json").write_text('{"name": "mlflow"}')
        case "garbage in a log":
            (run / "verdicts.jsonl").write_text('{"verdict": 1}\n')
        case "a manifest without prompts":
            manifest = json.loads((run / "manifest.json").read_text())
            del manifest["rows"]
            (run / "manifest.json").write_text(json.dumps(manifest))
    return run


@pytest.mark.parametrize(
    "how",
    ["edited protocol", "half a manifest", "foreign manifest", "garbage in a log",
     "a manifest without prompts"],
)  # fmt: skip
def test_a_damaged_run_is_named_and_left_out(tmp_path: Path, how: str) -> None:
    good, bad = write_runs(tmp_path / "runs", FOUR[1:3])
    damaged(bad, how)
    site = build([good, bad], tmp_path / "site")
    assert [problem.name for problem in site.problems] == ["run-1"]
    assert site.problems[0].why in re.sub(r"&#\d+;|&\w+;", "'", site.problems[0].why)
    assert len(by_name(site)) == 1
    assert "run-1" in (tmp_path / "site" / "index.html").read_text("utf-8")
    with pytest.raises(RunError, match="run-1 cannot be shown"):
        build([good, bad], tmp_path / "strict", strict=True)
    with pytest.raises(RunError, match="run-1 cannot be shown"):
        build(bad, tmp_path / "alone")
    assert not (tmp_path / "strict").exists()


def test_a_half_written_run_is_shown_as_far_as_it_got(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", FOUR[1])
    for name in ("replies.jsonl", "verdicts.jsonl"):
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: len(content) // 3])
    shown = build(run, tmp_path / "site").boards[0].unranked[0]
    assert 0 < shown.turns_answered < 133
    assert "not finished" in shown.why_unranked


def test_a_run_without_a_single_reply_is_no_crash(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", replace(FOUR[1], stop_after=0))
    shown = build(run, tmp_path / "site").boards[0].unranked[0]
    assert shown.figures["composite"].mean is None
    assert shown.turns_answered == 0


def test_a_path_without_runs_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no run and no bundle"):
        build(tmp_path / "empty", tmp_path / "site")


def test_bundle_and_run_of_one_run_are_shown_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "run", FOUR[1])
    pack_run(run, tmp_path / "runs" / "b.kardia.zip")
    site = build(tmp_path / "runs", tmp_path / "site")
    assert len(by_name(site)) == 1
    assert "the same run" in site.problems[0].why


def test_a_bundle_gives_the_page_that_its_run_gives(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", MODELS[5])
    pack_run(run, tmp_path / "b.kardia.zip")
    ours = by_name(build(run, tmp_path / "a"))["hf/half-judged"]
    theirs = by_name(build(tmp_path / "b.kardia.zip", tmp_path / "b"))["hf/half-judged"]
    assert replace(ours, packed=True) == theirs


def test_an_edited_bundle_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "run", FOUR[1])
    bundle = pack_run(
        write_run(tmp_path / "other", FOUR[2]), tmp_path / "runs" / "b.kardia.zip"
    ).path
    content = bundle.read_bytes()
    bundle.write_bytes(content[: len(content) // 2])
    site = build([run, bundle], tmp_path / "site")
    assert [problem.name for problem in site.problems] == ["b.kardia.zip"]


# --- the folder -----------------------------------------------------------------------------------


def test_equal_runs_give_equal_bytes(everything, tmp_path: Path) -> None:
    runs, site, _ = everything
    build(runs, tmp_path / "again", cache=tmp_path / "other-cache", workers=2)
    ours = {f.relative_to(site): f.read_bytes() for f in site.rglob("*") if f.is_file()}
    again = tmp_path / "again"
    theirs = {f.relative_to(again): f.read_bytes() for f in again.rglob("*") if f.is_file()}
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from leaderboard import extraction

    runs = write_runs(tmp_path / "runs", FOUR)
    read: list[str] = []
    real = extraction.extract_input

    def counted(path: Path, *args: Any, **options: Any) -> Any:
        read.append(path.name)
        return real(path, *args, **options)

    monkeypatch.setattr(extraction, "extract_input", counted)
    build(tmp_path / "runs", tmp_path / "site")
    assert sorted(read) == [run.name for run in runs]
    read.clear()
    with (runs[2] / "verdicts.jsonl").open("ab") as file:
        file.write((runs[2] / "verdicts.jsonl").read_bytes().splitlines(keepends=True)[0])
    build(tmp_path / "runs", tmp_path / "site")
    assert read == ["run-2"]


def test_a_broken_cache_is_made_again(tmp_path: Path) -> None:
    write_run(tmp_path / "run", FOUR[1])
    first = by_name(build(tmp_path / "run", tmp_path / "site"))
    for file in (tmp_path / "cache").rglob("extract.json"):
        file.write_text("{}")
    assert by_name(build(tmp_path / "run", tmp_path / "site")) == first


def test_a_folder_of_other_files_is_never_replaced(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", FOUR[1])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="give another --out"):
        build(run, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_build_that_fails_leaves_the_old_site_and_no_rubbish(tmp_path, monkeypatch) -> None:
    from leaderboard import site as building

    run = write_run(tmp_path / "run", FOUR[1])
    build(run, tmp_path / "out" / "site", cache=tmp_path / "cache")
    before = (tmp_path / "out" / "site" / "index.html").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "write_pages", full)
    with pytest.raises(OSError, match="No space"):
        build_site([run], tmp_path / "out" / "site", Plan(cache=tmp_path / "cache", workers=1))
    assert (tmp_path / "out" / "site" / "index.html").read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["site"]


def test_hostile_names_are_no_paths(everything) -> None:
    _, site, view = everything
    slugs = [run.slug for run in by_name(view).values()]
    assert all(re.fullmatch(r"[a-z0-9-]+", slug) for slug in slugs)
    assert len(set(slugs)) == len(slugs)
    assert not list(site.parent.glob("etc"))
    shutil.rmtree(site.parent / "nothing", ignore_errors=True)


def test_means_of_the_data_files_are_those_of_the_tables(everything) -> None:
    _, site, view = everything
    run = view.boards[0].runs[0]
    scores = data(site, f"runs/{run.slug}/scores")
    means = np.array(scores["personas"]["means"]["composite"], dtype=float)
    assert np.nanmean(means) == pytest.approx(run.figures["composite"].mean, abs=1e-3)
    assert len(scores["dialogues"]["ids"]) == 32
