"""What a build of the site writes, keeps and deletes: nothing of others, nothing too large."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from site_runs import Made, write_run

from kardiabench.bundle_rows import TurnText
from kardiabench.errors import ConfigError, RunError
from kardiabench.records import Usage
from kardiabench.results import JudgeResult, TurnResult
from leaderboard import kept, signatures, turn_files
from leaderboard.columns import Columns
from leaderboard.extraction import extract_input
from leaderboard.metrics import COMPOSITE
from leaderboard.scripts import LIMIT, numbers, script, size
from leaderboard.turn_files import write_run_files
from leaderboard.views import FlagView, Metric
from leaderboard.workplace import check_target, workplace

MARKER = json.dumps({"schema_version": 1, "kardiabench": "0.1", "protocols": []})
STATE = "0123456789abcdef01234567"
HOUR, DAY = 3_600, 86_400


def site(folder: Path, page: str = "old") -> Path:
    """A site as it was built before."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "index.js").write_text("kardiabench.put()")
    (folder / "leaderboard.json").write_text(MARKER)
    (folder / "board-0123456789abcdef.html").write_text(page)
    (folder / "index.html").write_text(page)
    return folder


def aged(path: Path, seconds: float) -> Path:
    """`path`, last changed so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def rebuilt(out: Path, page: str = "new") -> Path:
    with workplace(out) as folder:
        site(folder / "inner", page)
        for entry in (folder / "inner").iterdir():
            entry.rename(folder / entry.name)
        (folder / "inner").rmdir()
    return out


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- what is replaced -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "marker",
    ["[1,2]", "{}", '{"schema_version": "1", "kardiabench": "0.1"}', "half of", "[" * 100_000],
)
def test_a_marker_that_is_not_ours_marks_no_site(tmp_path: Path, marker: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "leaderboard.json").write_text(marker)
    with pytest.raises(ConfigError, match="give another --out"):
        check_target(tmp_path / "mine")


@pytest.mark.parametrize("name", ["thesis.txt", ".git", "board-1.html", "INDEX.html.bak", ".env"])
def test_a_site_with_a_file_or_folder_of_somebody_in_it_is_not_replaced(
    tmp_path: Path, name: str
) -> None:
    out = site(tmp_path / "site")
    (out / name).mkdir() if name == ".git" else (out / name).write_text("mine")
    with pytest.raises(ConfigError, match=re.escape(name)):
        check_target(out)
    with pytest.raises(ConfigError, match=re.escape(name)):
        rebuilt(out)
    assert (out / name).exists()
    assert names(tmp_path) == ["site"]


def test_a_link_or_a_folder_by_the_name_of_a_page_is_no_part_of_a_site(tmp_path: Path) -> None:
    linked, foldered = site(tmp_path / "linked"), site(tmp_path / "foldered")
    (linked / "models").symlink_to(tmp_path)
    (foldered / "cite.bib").mkdir()
    for out in (linked, foldered):
        with pytest.raises(ConfigError, match=r"models|cite\.bib"):
            check_target(out)


def test_what_comes_into_the_target_during_the_build_stops_it(tmp_path: Path) -> None:
    out = site(tmp_path / "site")
    with pytest.raises(ConfigError, match=r"thesis\.txt"), workplace(out) as folder:
        site(folder / "x")
        (out / "thesis.txt").write_text("mine")
    assert (out / "thesis.txt").read_text() == "mine"
    assert names(tmp_path) == ["site"]


def test_a_built_site_may_be_replaced_and_keeps_what_its_host_wants(tmp_path: Path) -> None:
    out = site(tmp_path / "site")
    (out / ".nojekyll").touch()
    (out / "CNAME").write_text("bench.example.org")
    check_target(out)
    rebuilt(out)
    assert (out / "index.html").read_text() == "new"
    assert (out / "CNAME").read_text() == "bench.example.org"
    assert (out / ".nojekyll").exists()
    assert names(tmp_path) == ["site"]


def test_a_folder_with_only_what_its_host_wants_is_free(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "CNAME").write_text("bench.example.org")
    check_target(tmp_path / "site")
    assert (rebuilt(tmp_path / "site") / "CNAME").read_text() == "bench.example.org"


def test_every_part_of_a_real_site_is_known(tmp_path: Path) -> None:
    from leaderboard.site import Plan, build_site

    runs = [
        write_run(tmp_path / "a", Made("a/one", carded=True), limit=2),
        write_run(tmp_path / "b", Made("b/two"), limit=3),
    ]
    plan = Plan(cache=tmp_path / "cache", workers=1)
    build_site(runs, tmp_path / "site", plan)
    assert {"judges", "models", "exports", "feed.xml"} < set(names(tmp_path / "site"))
    check_target(tmp_path / "site")
    build_site(runs, tmp_path / "site", plan)


@pytest.mark.parametrize("out", [".", "/", "..", "../here"])
def test_the_working_folder_and_those_above_are_no_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match="would be replaced; give another --out"):
        check_target(Path(out))


def test_a_folder_that_holds_an_input_is_no_target(tmp_path: Path) -> None:
    out = tmp_path / "site"
    (out / "data" / "run").mkdir(parents=True)
    (out / "leaderboard.json").write_text(MARKER)
    check_target(out, [tmp_path / "run"])
    with pytest.raises(ConfigError, match="run, and would be replaced"):
        check_target(out, [tmp_path / "run", out / "data" / "run"])


# --- builds that break off ------------------------------------------------------------------------


def failing_for(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Path, Path], bool]) -> None:
    """Let those renamings fail."""
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if fails(self, Path(target)):
            raise OSError(errno.EIO, "Input/output error", str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)


def test_the_old_site_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = site(tmp_path / "site")
    failing_for(monkeypatch, lambda here, there: there == out and not here.name.endswith("-old"))
    with pytest.raises(OSError, match="Input/output"):
        rebuilt(out)
    assert (out / "index.html").read_text() == "old"
    assert names(tmp_path) == ["site"]


def test_an_old_site_that_cannot_be_put_back_is_not_deleted_and_comes_back_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = site(tmp_path / "site")
    with monkeypatch.context() as patched:
        failing_for(patched, lambda _, there: there == out)
        with pytest.raises(OSError, match="Input/output"):
            rebuilt(out)
    assert len(names(tmp_path)) == 1
    assert re.fullmatch(r"\.site-[0-9a-f]{8}-old", names(tmp_path)[0])
    with pytest.raises(ZeroDivisionError), workplace(out):
        raise ZeroDivisionError
    assert (out / "index.html").read_text() == "old"
    assert names(tmp_path) == ["site"]


def test_the_site_that_a_killed_build_took_away_is_put_back_first(tmp_path: Path) -> None:
    aged(site(tmp_path / ".site-0000000a-old", "older") / "leaderboard.json", DAY)
    site(tmp_path / ".site-0000000b-old", "newest")
    with workplace(tmp_path / "site"):
        assert (tmp_path / "site" / "index.html").read_text() == "newest"


def test_what_killed_builds_left_is_deleted_when_it_is_old_and_nothing_else(tmp_path: Path) -> None:
    out = site(tmp_path / "site")
    for name in (".site-00000001", ".site-00000002-old", ".site-0000000g", ".other-00000001",
                 ".site-00000001-older", "site-00000001"):  # fmt: skip
        aged(site(tmp_path / name), 2 * HOUR)
    site(tmp_path / ".site-00000003")
    mine = tmp_path / ".site-00000004"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    aged(mine, 2 * HOUR)
    before = set(names(tmp_path))
    rebuilt(out)
    assert before - set(names(tmp_path)) == {".site-00000001", ".site-00000002-old"}


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", Made("a/one"), limit=2)


def make(run: Path, folder: Path) -> tuple[Any, Path]:
    """An extract of `run` and the workshop that its files are in."""
    made = kept.workshop(folder)
    extract = extract_input(run, made, include_text=False)
    return extract, made


def test_states_are_kept_in_a_subfolder_of_ours(run: Path, tmp_path: Path) -> None:
    name = signatures.signature(run, text=False)
    assert re.fullmatch(r"leaderboard-v1/[0-9a-f]{24}", name)
    kept.keep(tmp_path / name, *make(run, tmp_path / name))
    assert names(tmp_path) == ["leaderboard-v1"]
    assert kept.recall(tmp_path / name) is not None


def test_only_states_of_ours_are_deleted_however_old_the_rest_is(tmp_path: Path) -> None:
    ours = tmp_path / "leaderboard-v1"
    theirs = [tmp_path / "x", tmp_path / STATE, ours / "notes", ours / (STATE + "0")]
    states = [ours / STATE, ours / STATE.replace("0", "f"), ours / STATE.replace("0", "e")]
    for folder in (*theirs, *states):
        folder.mkdir(parents=True)
        (folder / "extract.json").write_text("{}")
        aged(folder / "extract.json", 40 * DAY)
    aged(states[1] / "extract.json", 20 * DAY)
    kept.tidy(tmp_path, [states[2]])
    assert all((folder / "extract.json").exists() for folder in (*theirs, *states[1:]))
    assert not states[0].exists()


def test_what_killed_builds_left_in_the_cache_is_deleted_after_a_day(tmp_path: Path) -> None:
    ours = tmp_path / "leaderboard-v1"
    old, live = ours / f".{STATE}-00000001", ours / f".{STATE}-00000002"
    theirs = [ours / ".notes-00000001", ours / f"{STATE}-00000001", ours / f".{STATE}-000000001"]
    for folder in (old, live, *theirs):
        folder.mkdir(parents=True)
        aged(folder, 2 * DAY)
    aged(live, DAY / 2)
    kept.tidy(tmp_path, [])
    assert set(names(ours)) == {live.name, *(folder.name for folder in theirs)}


def test_a_state_that_is_read_is_in_use(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / signatures.signature(run, text=False)
    kept.keep(folder, *make(run, folder))
    aged(folder / "extract.json", 40 * DAY)
    assert kept.recall(folder) is not None
    kept.tidy(tmp_path, [])
    assert folder.exists()


def test_of_two_builds_that_make_one_state_the_first_ones_stays(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / signatures.signature(run, text=False)
    first, second = make(run, folder), make(run, folder)
    kept.keep(folder, *first)
    inode = folder.stat().st_ino
    kept.keep(folder, *second)
    assert folder.stat().st_ino == inode
    assert (folder / "data").is_dir()


@pytest.mark.parametrize("lost", ["extract.json", "data", "more.npz"])
def test_a_state_with_a_part_missing_is_replaced_as_a_whole(
    run: Path, tmp_path: Path, lost: str
) -> None:
    folder = tmp_path / signatures.signature(run, text=False)
    extract, made = make(run, folder)
    (made / "more.npz").write_bytes(b"figures")
    kept.keep(folder, extract, made)
    part = folder / lost
    part.rename(tmp_path / "gone")
    extract, made = make(run, folder)
    (made / "more.npz").write_bytes(b"figures")
    kept.keep(folder, extract, made)
    assert part.exists()
    assert names(folder.parent) == [folder.name]


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_folder(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    with kept.usable(tmp_path / "file") as root:
        folder = root / signatures.signature(run, text=False)
        kept.keep(folder, *make(run, folder))
        assert kept.recall(folder) is not None
        kept.publish(folder, tmp_path / "site")
        kept.tidy(root, [folder])
    assert not root.exists()
    assert list((tmp_path / "site" / "data").rglob("scores.js"))
    with pytest.raises(ConfigError, match=r"cannot be written.*give another --cache"):
        kept.workshop(tmp_path / "file" / "leaderboard-v1" / STATE)
    with kept.usable(tmp_path / "new") as root:
        assert root == tmp_path / "new"


def test_a_state_that_was_deleted_meanwhile_is_no_empty_site(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="build it again"):
        kept.publish(tmp_path / STATE, tmp_path / "site")


# --- what a state is of ---------------------------------------------------------------------------


def test_a_changed_source_or_sample_changes_the_digest(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "inner" / "a.py").write_text("A = 1")
    seen = [signatures.sources_digest((package,))]
    assert signatures.sources_digest((package,)) == seen[0]
    for name, text in (("inner/a.py", "A = 2"), ("b.py", ""), ("sample.jsonl", "{}")):
        (package / name).write_text(text)
        seen.append(signatures.sources_digest((package,)))
    (package / "b.py").rename(package / "c.py")
    seen.append(signatures.sources_digest((package,)))
    assert len(set(seen)) == 5


def test_the_state_depends_on_our_sources_and_the_libraries(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def now() -> str:
        signatures.program.cache_clear()
        return signatures.signature(run, text=False)

    seen = [now(), signatures.signature(run, text=True)]
    assert now() == seen[0]
    for library in ("numpy", "altair", "vl-convert-python"):
        with monkeypatch.context() as patched:
            version = signatures._version
            patched.setattr(
                signatures,
                "_version",
                lambda name, other=library, real=version: "0" if name == other else real(name),
            )
            seen.append(now())
    with monkeypatch.context() as patched:
        patched.setattr(signatures, "sources_digest", lambda packages: str(len(packages)))
        seen.append(now())
    assert len(set(seen)) == 6
    assert now() == seen[0]


# --- data files -----------------------------------------------------------------------------------


def columns_of(lengths: Sequence[int], dimensions: int = 3, judges: int = 2) -> Columns:
    """Dialogues of `lengths` turns, each judged on `dimensions`, with figures of many digits."""
    total = sum(lengths)
    rng = np.random.default_rng(1)
    verdicts = {f"judge-{j}": JudgeResult("truncated", (), Usage()) for j in range(judges)}
    turn = TurnResult("p", "joy", "row", "0" * 12, "truncated", "", None, ("missing:response",),
                      Usage(), 1.0, verdicts)  # fmt: skip
    keys = [f"judge-{d % judges}.dimension-{d:02}" for d in range(dimensions)]
    return Columns(
        dialogues=tuple(f"dialogue-{number:05}" for number in range(len(lengths))),
        personas=("p",),
        dialogue=np.repeat(np.arange(len(lengths)), lengths),
        persona=np.zeros(total, dtype=np.int64),
        index=np.concatenate([np.arange(length) for length in lengths]),
        gold=np.zeros(total, dtype=np.int64),
        predicted=np.full(total, 32),
        scores={key: rng.uniform(-99, 99, total) for key in (*keys, COMPOSITE)},
        turns=[turn] * total,
    )


def texts_of(columns: Columns, text: str) -> dict[str, TurnText]:
    """`text` in every span, as the whole reply and in every judge's evidence."""
    spans = dict.fromkeys(("understanding", "reasoning", "emotion", "response"), text)
    evidence: dict[str, dict[str, str]] = {}
    for key in columns.scores.keys() - {COMPOSITE}:
        judge, _, dimension = key.partition(".")
        evidence.setdefault(judge, {})[dimension] = text
    return {turn: TurnText(turn, spans, text, evidence) for turn in columns.ids}


def written(
    folder: Path, columns: Columns, texts: Mapping[str, TurnText] | None, **more: Any
) -> dict[str, bytes]:
    """The data files by name."""
    metrics = [Metric(key, key, -99, 99, "other", "") for key in columns.scores]
    given = {"metrics": metrics, "flags": []} | more
    write_run_files(folder, "slug", columns=columns, texts=texts, **given)
    files = sorted((folder / "data" / "runs" / "slug").glob("*.js"))
    return {file.stem: file.read_bytes() for file in files}


def content(file: bytes) -> Any:
    text = file.decode().partition(",JSON.parse('")[2].removesuffix("'));\n")
    return json.loads(re.sub(r"\\(.)", r"\1", text))


NASTY = {
    "less than": "<" * 8_000,
    "emoji": "\N{LOUDLY CRYING FACE}" * 8_000,
    "controls": "\x01" * 8_000,
    "separators": "\u2028" * 8_000,
    "surrogates": "\ud800" * 8_000,
    "quotes": '"\\' * 4_000,
    "very long": "a" * 1_000_000,
}


@pytest.mark.parametrize(
    ("lengths", "dimensions"),
    [([15] * 4, 3), ([50], 5), ([3] * 30, 60), ([300], 60), ([300, 1, 1], 1)],
    ids=["usual", "50 turns", "60 dimensions", "300 turns and 60 dimensions", "300 turns"],
)
@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY.keys())
def test_no_data_file_is_over_2_mb_whatever_is_said(
    tmp_path: Path, lengths: list[int], dimensions: int, text: str
) -> None:
    columns = columns_of(lengths, dimensions)
    files = written(tmp_path, columns, texts_of(columns, text))
    assert max(map(len, files.values())) < 2_000_000
    spans = [span for name in files if name != "scores" for span in content(files[name])["spans"]]
    assert len(spans) == sum(lengths)
    for span in spans:
        shown = span["response"]
        whole = len(shown) == len(text)
        assert whole or re.search(rf".… \(cut: {len(text):,} characters\)$", shown, re.DOTALL)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    dimensions=st.integers(1, 20),
    character=st.characters(),
    longest=st.integers(0, 9_000),
)
def test_sizes_are_never_less_than_what_is_written(
    tmp_path: Path, lengths: list[int], dimensions: int, character: str, longest: int
) -> None:
    columns = columns_of(lengths, dimensions)
    shown, sizes = turn_files._fitted(columns, texts_of(columns, character * longest))
    for code, planned in enumerate(sizes):
        chosen = np.flatnonzero(columns.dialogue == code)
        # The names of the columns stand once in a file, not once a dialogue.
        frame = sum(len(key) + 6 for key in columns.scores) + 400
        assert size(turn_files._turns(columns, chosen, shown)) <= planned + frame


def test_many_dimensions_without_text_make_more_files_not_larger_ones(tmp_path: Path) -> None:
    columns = columns_of([14] * 500, 60)
    files = written(tmp_path, columns, None)
    turns = [file for name, file in files.items() if name != "scores"]
    assert max(map(len, files.values())) < 1_000_000
    assert sum(len(content(file)["index"]) for file in turns) == 7_000


def test_means_that_are_too_many_for_a_file_are_left_out_from_the_last(tmp_path: Path) -> None:
    columns = columns_of([1] * 6_000, 60, judges=1)
    scores = written(tmp_path, columns, None)["scores"]
    assert len(scores) < 2_000_000
    means = content(scores)["dialogues"]["means"]
    filled = [len(values) for values in means.values()]
    assert filled[0] == 6_000
    assert filled[-1] == 0
    assert len(filled) == 61


def test_evidence_goes_before_replies_and_says_so(tmp_path: Path) -> None:
    columns = columns_of([300], 60)
    turns = content(written(tmp_path, columns, texts_of(columns, "word " * 200))["turns-0"])
    assert turns["spans"][0]["response"].startswith("word word")
    assert "left out" in turns["evidence"][0]["judge-0"][""]


def test_figures_that_no_file_can_hold_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="too large for the site"):
        written(tmp_path, columns_of([8_000], 60), None)


def test_short_texts_are_whole(tmp_path: Path) -> None:
    columns = columns_of([2, 3])
    turns = content(written(tmp_path, columns, texts_of(columns, "<b>fine</b>"))["turns-0"])
    assert turns["spans"][4]["response"] == "<b>fine</b>"
    assert turns["evidence"][4]["judge-1"]["dimension-01"] == "<b>fine</b>"
    assert turns["counts"] == [2, 3]


def test_flagged_turns_are_counted_by_dialogue_and_in_no_time(tmp_path: Path) -> None:
    columns = columns_of([14] * 1_450, 1)
    flags = [FlagView("safety", name, "", columns.ids, 20_300, 1.0) for name in ("a", "b", "c")]
    before = time.process_time()
    found = turn_files._scores(columns, [], flags, [0] * 1_450)
    assert time.process_time() - before < 0.5
    assert found["dialogues"]["flagged"] == [42] * 1_450


def test_size_is_the_size_of_what_is_written() -> None:
    for value in ("<\u2028é\x01", [1.5, None, "\ud800"], {"a": "<"}):
        assert len(script("key", value)) == len(script("key", 0)) - 1 + size(value)
    assert size("<") == 9
    assert LIMIT == 2_000_000


def test_numbers_too_large_for_integers_stay_as_they_are() -> None:
    assert numbers(np.array([1e300, -1e19, 3.0, np.nan])) == [1e300, -1e19, 3, None]
