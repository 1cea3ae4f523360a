"""The leaderboard in a browser: nothing leaves it, nothing hostile runs, its numbers are right.

Every test also fails for a request that leaves the site, a message on the console, an exception, a
dialog, or a violation of the page's policy: see `site_browser.Visit`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from jsonschema import Draft202012Validator
from playwright.sync_api import Browser, Page, expect
from site_browser import (
    DIMENSIONS,
    HEBREW,
    Site,
    Visit,
    best_first,
    browsing,
    cells,
    interval,
    make_site,
    names,
    number,
    probability,
    renamed_site,
    served,
    signed,
    visiting,
)
from site_runs import HOSTILE

from leaderboard import templating
from leaderboard.views import RunView

pytestmark = pytest.mark.browser
FINE, DRIFTED, WINDED = "openai/fine-model", "anthropic/drifted", "long/winded"
#: What a page's fragment says on pages that read it, and does not name a place on them.
READ_BY_SCRIPTS = ("browse.html", "compare.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("browser"))


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Visit]:
    with visiting(browser, site) as visit:
        yield visit


def kinds(site: Site) -> dict[str, str]:
    """A page of each kind, as a reader would have it before him."""
    a, b = site.run(HOSTILE), site.run(FINE)
    dialogue = site.dialogues()["ids"][0]
    judge = next(page for page in sorted(site.pages()) if page.startswith("judges/"))
    pair = {"p": site.board.protocol, "a": a.slug, "b": b.slug}
    answers = {"p": site.board.protocol, "d": dialogue, "t": "1", "m": f"{a.slug},{b.slug}"}
    return {
        "index": "index.html",
        "model": f"models/{site.run('hf/half-judged').slug}.html",
        "unranked model": f"models/{site.run('hf/not-finished').slug}.html",
        "compare": f"compare.html#{urlencode(pair)}",
        "browse": f"browse.html#{urlencode(answers)}",
        "browse without text": f"browse.html#{urlencode({'p': site.silent.protocol})}",
        "method": "method.html",
        "judge": judge,
    }


#: Between the ends of a scale.
DASH = "\N{EN DASH}"
KINDS = (
    "index", "model", "unranked model", "compare", "browse", "browse without text", "method",
    "judge",
)  # fmt: skip


# --- the site as a whole --------------------------------------------------------------------------


def crawl(visit: Visit) -> tuple[set[str], set[str], dict[str, set[str]]]:
    """From index.html: pages reached, all addresses that are linked, and the ids on each page."""
    waiting, pages = ["index.html"], set[str]()
    links, ids = set[str](), dict[str, set[str]]()
    while waiting:
        name = waiting.pop()
        pages.add(name)
        page = visit.open(name)
        found = page.locator("a[href]").evaluate_all("links => links.map(link => link.href)")
        ids[name] = set(page.locator("[id]").evaluate_all("all => all.map(one => one.id)"))
        links |= set(found)
        linked = {
            unquote(link.removeprefix(visit.site.address)).partition("#")[0] for link in found
        }
        fresh = {one for one in linked if one.endswith(".html")} - pages - set(waiting)
        waiting += sorted(fresh & visit.site.pages())
    return pages, links, ids


def dead(site: Site, link: str, ids: dict[str, set[str]]) -> bool:
    """Whether a link leads to no file, no place on its page, nothing that a script finds."""
    if not link.startswith(site.address):
        return True
    name, _, fragment = link.removeprefix(site.address).partition("#")
    if not (site.folder / unquote(name)).is_file():
        return True
    if name in READ_BY_SCRIPTS:
        return not known(site, parse_qs(fragment))
    return bool(fragment) and unquote(fragment) not in ids[unquote(name)]


def known(site: Site, wanted: dict[str, list[str]]) -> bool:
    """Whether protocol, runs and dialogue of a deep link are on the site."""
    if not wanted:
        return True
    board = next((b for b in site.view.boards if [b.protocol] == wanted.get("p")), None)
    if board is None:
        return False
    slugs = {run.slug for run in (*board.runs, *board.unranked)}
    asked = {slug for key in "abm" for listed in wanted.get(key, []) for slug in listed.split(",")}
    dialogues = site.data(f"{board.protocol}/dialogues")
    turns = dict(zip(dialogues["ids"], dialogues["turns"], strict=True))
    turn = int(wanted.get("t", ["0"])[0])
    return asked <= slugs and all(turn < turns.get(d, 0) for d in wanted.get("d", []))


def test_every_page_is_reached_from_the_first_and_no_link_is_dead(visit: Visit) -> None:
    pages, links, ids = crawl(visit)
    assert pages == visit.site.pages()
    assert sorted(link for link in links if dead(visit.site, link, ids)) == []
    assert any("browse.html#" in link for link in links)


@pytest.mark.parametrize("kind", KINDS)
def test_pages_work_over_http_and_ask_for_nothing_else(
    browser: Browser, site: Site, kind: str
) -> None:
    with served(site) as there, visiting(browser, there) as visit:
        page = visit.open(kinds(site)[kind])
        expect(page.locator("h1")).to_be_visible()
        assert len(visit.requests) >= 3


def test_a_chosen_theme_stays_on_the_next_page(visit: Visit) -> None:
    page = visit.open("index.html")
    button = page.get_by_role("button", name="Theme")
    paper = "getComputedStyle(document.documentElement).backgroundColor"
    colours = []
    for name in ("light", "dark"):
        button.click()
        expect(button).to_have_text(f"Theme: {name}")
        colours.append(page.evaluate(paper))
    assert colours[0] != colours[1]
    page = visit.open("method.html")
    expect(page.get_by_role("button", name="Theme")).to_have_text("Theme: dark")
    assert page.evaluate(paper) == colours[1]


POLICY = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'\">"


@pytest.mark.parametrize(
    ("page", "noticed"),
    [
        ("<img src=http://127.0.0.1:9/spy.png>", "asked for http"),
        (f"{POLICY}<script src=x.js></script>", "against the policy"),
        (f"{POLICY}<p style=color:red>", "against the policy"),
        ("<script>alert(1)</script>", "dialog: 1"),
        ("<script>nothing.at.all</script>", "exception"),
        ("<script src=missing.js></script>", "failed"),
    ],
)
def test_a_visit_notices_what_a_page_must_not_do(
    browser: Browser, site: Site, tmp_path: Path, page: str, noticed: str
) -> None:
    (tmp_path / "index.html").write_text(f"<!doctype html>{page}")
    bad = replace(site, folder=tmp_path, address=f"{tmp_path.as_uri()}/")
    with (
        pytest.raises(pytest.fail.Exception, match=noticed),
        visiting(browser, bad) as visit,
    ):
        visit.open("index.html")


# --- hostile text ---------------------------------------------------------------------------------


def test_a_models_name_that_is_markup_is_text_on_every_page(visit: Visit) -> None:
    run = visit.site.run(HOSTILE)
    page = visit.open("index.html")
    expect(page.get_by_role("row").filter(has_text=HOSTILE)).to_have_count(1)
    page = visit.open(f"models/{run.slug}.html")
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    page = visit.open(kinds(visit.site)["compare"])
    expect(page.locator("#a option:checked")).to_have_text(HOSTILE)
    expect(page.locator("#summary")).to_contain_text(HOSTILE)
    page = visit.open(kinds(visit.site)["browse"])
    expect(page.locator(".answer h3").first).to_have_text(HOSTILE)


def test_a_reply_and_evidence_that_are_scripts_are_shown_as_they_were_written(visit: Visit) -> None:
    site, run = visit.site, visit.site.run(HOSTILE)
    dialogue, turn = place_of(site, run, "<script>")
    page = visit.open(browse(site, d=dialogue, t=turn, m=run.slug))
    answer = page.locator(".answer")
    expect(answer).to_contain_text(f"<script>alert(2)</script>{HOSTILE}")
    expect(answer).to_contain_text(f"quotes “{HOSTILE}”")
    assert page.locator("main img, main script").count() == 0


def place_of(site: Site, run: RunView, words: str) -> tuple[str, int]:
    """The first dialogue and turn where a run's response has `words`."""
    dialogues = site.dialogues()
    for dialogue, turns in zip(dialogues["ids"], dialogues["turns"], strict=True):
        for turn in range(turns):
            if words in site.answer(run, dialogue, turn)["spans"].get("response", ""):
                return dialogue, turn
    raise AssertionError(f"no response has {words}")


def browse(site: Site, **wanted: Any) -> str:
    return f"browse.html#{urlencode({'p': site.board.protocol} | wanted)}"


def test_right_to_left_text_does_not_turn_what_stands_around_it(visit: Visit) -> None:
    site, run = visit.site, visit.site.run(HEBREW)
    page = visit.open(browse(site, m=run.slug))
    said = page.locator(".answer .said").filter(has_text=HEBREW).first
    expect(said).to_be_visible()
    style = "one => { const s = getComputedStyle(one); return [s.direction, s.unicodeBidi]; }"
    assert said.evaluate(style)[0] == "rtl"
    assert said.evaluate(style)[1] in ("isolate", "plaintext")
    for around in (".answer .who", ".answer", ".answer h3", "#heading", "#list"):
        assert page.locator(around).first.evaluate(style)[0] == "ltr", around
    assert page.locator(".answer h3 bdi").evaluate(style)[1] in ("isolate", "plaintext")
    page = visit.open("index.html")
    name = page.locator("#table th bdi").filter(has_text=HEBREW)
    assert name.evaluate(style) == ["rtl", "isolate"]
    row = page.get_by_role("row").filter(has_text=HEBREW)
    assert row.evaluate(style)[0] == "ltr"


# Where a name stands in a sentence, its letters must not carry the words after it to its left.
@pytest.mark.parametrize(("page", "within"), [("compare", "#summary"), ("browse", "#chosen")])
def test_a_right_to_left_name_in_a_sentence_is_isolated(
    visit: Visit, page: str, within: str
) -> None:
    site, run = visit.site, visit.site.run(HEBREW)
    wanted = {"p": site.board.protocol, "a": run.slug, "b": site.run(DRIFTED).slug, "m": run.slug}
    opened = visit.open(f"{page}.html#{urlencode(wanted)}")
    expect(opened.locator(within)).to_contain_text(HEBREW)
    isolated = opened.locator(f"{within} bdi", has_text=HEBREW)
    assert isolated.count() or "\u2068" in opened.locator(within).inner_text()


def test_a_reply_of_10_mb_is_cut_and_says_so(visit: Visit) -> None:
    site, run = visit.site, visit.site.run(WINDED)
    dialogue, turn = place_of(site, run, "10,000,000")
    page = visit.open(browse(site, d=dialogue, t=turn, m=run.slug))
    said = page.locator(".answer .said").first
    expect(said).to_have_text(re.compile(r"ü… \(cut: 10,000,000 characters\)$"))
    assert len(said.inner_text()) < 10_000


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return renamed_site(tmp_path_factory.mktemp("renamed"))


def test_judges_and_dimensions_named_like_parts_of_objects_are_names(
    browser: Browser, renamed: Site
) -> None:
    run = renamed.board.runs[0]
    dialogue = renamed.dialogues()["ids"][0]
    known = renamed.answer(run, dialogue, 0)
    own = [metric for metric in renamed.board.metrics if metric.key.startswith("__proto__.")]
    assert len(own) == len(DIMENSIONS) + 1
    with visiting(browser, renamed) as visit:
        page = visit.open(browse(renamed, d=dialogue, t=0, m=run.slug))
        shown = score_rows(page.locator(".answer"))
        for metric in own:
            name = squeezed(f"{metric.label} {metric.low:g}{DASH}{metric.high:g}")
            assert shown[name] == number(known["scores"][metric.key], 0)
        said = page.locator(".answer .evidence").all_text_contents()
        evidence = [words for judge in known["evidence"].values() for words in judge.values()]
        assert sorted(said) == sorted(evidence)
        options = page.locator("#order option").evaluate_all("all => all.map(one => one.value)")
        assert {f"{run.slug} {metric.key}" for metric in own} <= set(options)
        page.locator("#order").select_option(f"{run.slug} {own[-1].key}")
        means = renamed.scores(run)["dialogues"]["means"][own[-1].key]
        expect(page.locator("#list a").first).to_contain_text(number(min(means), 2))


def test_judges_and_dimensions_named_like_parts_of_objects_are_compared(
    browser: Browser, renamed: Site
) -> None:
    a, b = renamed.board.runs
    with visiting(browser, renamed) as visit:
        pair = {"p": renamed.board.protocol, "a": a.slug, "b": b.slug}
        page = visit.open(f"compare.html#{urlencode(pair)}")
        expected_rows = expected_differences(renamed, a, b)
        assert differences(page) == [[squeezed(cell) for cell in row] for row in expected_rows]
        for metric in renamed.board.metrics:
            if metric.kind == "rubric":
                page.locator("#metric").select_option(metric.key)
                expected = expected_gaps(renamed, a, b, metric.key)
                assert [row[:4] for row in cells(page, "#dialogues")] == expected or not expected


def score_rows(answer: Any) -> dict[str, str]:
    """The scores of an answer by what was judged."""
    rows = [row.all_inner_texts() for row in map(row_cells, answer.locator("tbody tr").all())]
    return {squeezed(row[0]): squeezed(row[1]) for row in rows if len(row) == 2}


# --- drift ----------------------------------------------------------------------------------------


def test_the_comparison_marks_the_run_and_numbers_of_a_judge_that_drifted(visit: Visit) -> None:
    site, a, b = visit.site, visit.site.run(DRIFTED), visit.site.run(FINE)
    page = visit.open(f"compare.html#{urlencode(pair_of(site, a, b))}")
    expect(page.locator("#a option:checked")).to_have_text(f"\u2068{a.name}\u2069 †")
    expect(page.locator("#b option:checked")).to_have_text(b.name)
    expect(page.locator("#summary")).to_contain_text(f"A ({a.name} †)")
    rows = page.locator("#differences tbody tr")
    for place, metric in enumerate(site.board.metrics):
        marks = 1 if templating.marked(a, metric) else 0
        expect(rows.nth(place).locator("sup")).to_have_count(marks)
    page.get_by_label("Metric", exact=True).select_option("rubric.empathy")
    first = cells(page, "#personas")[0]
    assert ["†" in cell for cell in first[2:5]] == [True, False, True]
    page.get_by_label("Metric", exact=True).select_option("emotion.emotion")
    expect(page.locator("#personas sup, #dialogues sup")).to_have_count(0)
    note = page.locator("#drift")
    expect(note).to_contain_text("† A judge of this number has moved since its card was measured.")
    expect(note).to_contain_text(f"{a.name}: rubric")
    assert note.locator("a").get_attribute("href") == f"models/{a.slug}.html#judges"


def test_where_no_judge_drifted_there_is_no_mark(visit: Visit) -> None:
    site, a, b = visit.site, visit.site.run(HOSTILE), visit.site.run(FINE)
    page = visit.open(f"compare.html#{urlencode(pair_of(site, a, b))}")
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#drift")).to_have_text("")
    expect(page.locator("#result sup")).to_have_count(0)
    page = visit.open(browse(site, m=f"{a.slug},{b.slug}"))
    expect(page.locator("#turn sup, #turn .drift, #turn .mark")).to_have_count(0)


def pair_of(site: Site, a: RunView, b: RunView) -> dict[str, str]:
    return {"p": site.board.protocol, "a": a.slug, "b": b.slug}


def test_the_browser_marks_the_model_and_scores_of_a_judge_that_drifted(visit: Visit) -> None:
    site, run, other = visit.site, visit.site.run(DRIFTED), visit.site.run(FINE)
    page = visit.open(browse(site, m=f"{run.slug},{other.slug}"))
    answers = page.locator(".answer")
    expect(answers.first.locator("h3 a.mark")).to_have_text("†")
    expect(answers.last.locator("h3 a.mark, sup")).to_have_count(0)
    scores = score_rows(answers.first)
    for metric in site.board.metrics:
        shown = scores.get(f"{metric.label} {metric.low:g}{DASH}{metric.high:g}")
        assert shown is None or shown.endswith("†") is templating.marked(run, metric)
    expect(page.locator("#chosen")).to_contain_text(f"{run.name} †")
    expect(page.locator("#turn .drift")).to_contain_text(f"{run.name}: rubric")
    page.locator("#order").select_option(f"{run.slug} rubric.empathy")
    expect(page.locator("#list a").first).to_contain_text("†")
    page.locator("#order").select_option(f"{other.slug} rubric.empathy")
    expect(page.locator("#list")).not_to_contain_text("†")


# --- the ranking ----------------------------------------------------------------------------------


def head(page: Page, name: str) -> Any:
    return page.locator("#table thead th").filter(has=page.get_by_role("button", name=name))


def expect_sorted_only_by(page: Page, name: str, way: str) -> None:
    expect(head(page, name)).to_have_attribute("aria-sort", way)
    expect(page.locator("#table [aria-sort]")).to_have_count(1)


def test_a_columns_header_sorts_by_its_numbers_and_the_second_click_turns_it(visit: Visit) -> None:
    page, runs = visit.open("index.html"), visit.site.board.runs
    button = head(page, "Empathy").get_by_role("button")
    button.click()
    expect_sorted_only_by(page, "Empathy", "descending")
    means = {run.name: run.figures["rubric.empathy"].mean or 0 for run in runs}
    down = [means[name] for name in names(page)]
    assert down == sorted(means.values(), reverse=True)
    button.click()
    expect_sorted_only_by(page, "Empathy", "ascending")
    assert [means[name] for name in names(page)] == down[::-1]


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_header_sorts_by_the_keyboard_and_keeps_the_focus(visit: Visit, key: str) -> None:
    page = visit.open("index.html")
    button = head(page, "Macro-F1").get_by_role("button")
    button.focus()
    page.keyboard.press(key)
    expect_sorted_only_by(page, "Macro-F1", "descending")
    expect(button).to_be_focused()
    assert names(page) == best_first(visit.site.board.runs, "macro_f1")


def test_what_is_missing_stands_last_whichever_way_the_others_go(visit: Visit) -> None:
    page, runs = visit.open("index.html"), visit.site.board.runs
    costs = {run.name: run.cost_per_turn for run in runs}
    without = {name for name, cost in costs.items() if cost is None}
    assert without
    for way in ("ascending", "descending"):
        head(page, "Cost").get_by_role("button").click()
        expect_sorted_only_by(page, "Cost", way)
        shown = names(page)
        assert set(shown[-len(without) :]) == without
        paid = [costs[name] or 0 for name in shown[: -len(without)]]
        assert paid == sorted(paid, reverse=way == "descending")


def test_the_model_column_sorts_by_name(visit: Visit) -> None:
    page = visit.open("index.html")
    head(page, "Model").get_by_role("button").click()
    expect_sorted_only_by(page, "Model", "ascending")
    latin = [name for name in names(page) if re.match("[a-z]", name)]
    assert latin == sorted(latin)
    assert len(latin) > 5


@pytest.mark.parametrize("key", ["emotion.emotion", "rubric.safety"])
def test_rank_by_another_metric_shows_its_ranks_and_its_order(visit: Visit, key: str) -> None:
    board = visit.site.board
    metric = next(metric for metric in board.metrics if metric.key == key)
    page = visit.open("index.html")
    before = ranks(page)
    page.get_by_label("Rank by").select_option(label=metric.label)
    expect(page.locator("#ranked-by")).to_have_text(metric.label)
    assert ranks(page) == expected_ranks(visit.site, key) != before
    assert names(page) == best_first([run_named(visit.site, n) for n in names(page)], key)


def test_the_first_ranks_are_those_of_the_primary_metric(visit: Visit) -> None:
    page = visit.open("index.html")
    assert ranks(page) == expected_ranks(visit.site, visit.site.board.primary)
    assert names(page) == best_first(visit.site.board.runs, visit.site.board.primary)


def run_named(site: Site, name: str) -> RunView:
    return next(run for run in site.board.runs if run.name == name)


def ranks(page: Page) -> dict[str, str]:
    column = page.locator("#table tbody td.rank b").all_text_contents()
    return dict(zip(names(page), column, strict=True))


def expected_ranks(site: Site, key: str) -> dict[str, str]:
    found = {run.name: run.figures[key].rank for run in site.board.runs}
    shared = Counter(found.values())
    return {name: f"{'=' if shared[rank] > 1 else ''}{rank}" for name, rank in found.items()}


def test_a_filter_by_name_hides_the_others_and_says_how_many_are_left(visit: Visit) -> None:
    page = visit.open("index.html")
    every = names(page)
    page.get_by_label("Model", exact=True).fill("FINE-model")
    expect(page.locator("#shown")).to_have_text(f"2 of {len(every)} runs shown")
    assert names(page) == [name for name in every if "fine-model" in name]
    page.get_by_label("Model", exact=True).fill("no such model")
    expect(page.locator("#shown")).to_have_text(f"0 of {len(every)} runs shown")
    assert names(page) == []
    page.get_by_label("Model", exact=True).fill("")
    expect(page.locator("#shown")).to_have_text("")
    assert names(page) == every


def test_floors_can_be_hidden_and_shown_again(visit: Visit) -> None:
    page = visit.open("index.html")
    every = names(page)
    floors = [run.name for run in visit.site.board.runs if run.kind == "floor"]
    assert floors
    page.get_by_label("Show floors").uncheck()
    expect(page.locator("#shown")).to_contain_text(f"{len(every) - len(floors)} of {len(every)}")
    assert names(page) == [name for name in every if name not in floors]
    page.get_by_label("Show floors").check()
    expect(page.locator("#shown")).to_have_text("")
    assert names(page) == every


def test_a_column_can_be_hidden(visit: Visit) -> None:
    page = visit.open("index.html")
    body, header = page.locator("#table tbody td"), page.locator("#table thead th")
    cells_before, heads_before = body.count(), header.count()
    page.locator("summary", has_text="Columns").click()
    page.get_by_label("Latency").uncheck()
    expect(header.filter(has_text="Latency")).to_be_hidden()
    expect(header.filter(visible=True)).to_have_count(heads_before - 1)
    expect(body.filter(visible=True)).to_have_count(cells_before - len(names(page)))
    page.get_by_label("Latency").check()
    expect(body.filter(visible=True)).to_have_count(cells_before)


def test_reset_brings_the_ranking_back_as_it_came(visit: Visit) -> None:
    page = visit.open("index.html")
    before = cells(page, "#table"), ranks(page)
    page.get_by_label("Rank by").select_option(label="Safety")
    head(page, "Cost").get_by_role("button").click()
    page.get_by_label("Show floors").uncheck()
    page.get_by_label("Model", exact=True).fill("fine")
    page.locator("summary", has_text="Columns").click()
    page.get_by_label("Latency").uncheck()
    assert cells(page, "#table") != before[0]
    page.get_by_role("button", name="Reset").click()
    assert (cells(page, "#table"), ranks(page)) == before
    expect(page.get_by_label("Model", exact=True)).to_have_value("")
    expect(page.get_by_label("Show floors")).to_be_checked()
    expect(page.get_by_label("Latency")).to_be_checked()
    expect(head(page, "Latency")).to_be_visible()
    expect(page.locator("#shown")).to_have_text("")
    expect_sorted_only_by(page, "Composite", "descending")


def test_the_table_says_how_many_columns_are_to_the_right(browser: Browser, site: Site) -> None:
    with visiting(browser, site, viewport={"width": 390, "height": 800}) as visit:
        page = visit.open("index.html")
        hint = page.locator("#beyond")
        expect(hint).to_have_text(re.compile(r"^\d+ more columns to the right →$"))
        page.get_by_role("region", name="Ranking").evaluate("one => { one.scrollLeft = 1e6; }")
        expect(hint).to_have_text("")
        page.set_viewport_size({"width": 3000, "height": 800})
        expect(hint).to_have_text("")


def test_without_scripts_the_table_is_all_there(browser: Browser, site: Site) -> None:
    with visiting(browser, site, java_script_enabled=False) as visit:
        page = visit.open("index.html")
        expect(page.locator("#controls")).to_be_hidden()
        for run in site.board.runs:
            row = page.get_by_role("row").filter(has=page.get_by_text(run.name, exact=True))
            text = " ".join(row.inner_text().split())
            for metric in site.board.metrics:
                figure = run.figures[metric.key]
                assert templating.number(figure.mean, metric.digits) in text
                assert templating.span(figure.low, figure.high, metric.digits) in text


@pytest.mark.parametrize("name", ["compare.html", "browse.html"])
def test_without_scripts_a_page_that_needs_them_says_so(
    browser: Browser, site: Site, name: str
) -> None:
    with visiting(browser, site, java_script_enabled=False) as visit:
        visit.page.goto(site.url(name))
        note = visit.page.locator("noscript p")  # an element only where scripts are off
        expect(note).to_be_visible()
        assert "needs JavaScript" in str(note.text_content())
        expect(visit.page.locator("main form")).to_be_hidden()


# --- comparison -----------------------------------------------------------------------------------


def expected_differences(site: Site, a: RunView, b: RunView) -> list[list[str]]:
    """The rows of the table of differences, out of the data file, without the drawn column."""
    file = site.data(f"{site.board.protocol}/pairs/{a.slug}")
    rows = []
    for key, values in zip(file["metrics"], file["rows"][b.slug], strict=True):
        metric = next(metric for metric in site.board.metrics if metric.key == key)
        field = dict(zip(file["fields"], values, strict=True))
        digits = max(metric.digits, 2)
        mark = "†" if any(templating.marked(run, metric) for run in (a, b)) else ""
        rows.append(
            [
                f"{metric.label} {metric.low:g}{DASH}{metric.high:g}",
                signed(field["mean"], digits) + mark,
                interval(field["low"], field["high"], digits),
                *(probability(field[name]) for name in ("p_holm", "p", "p_flip")),
                *(number(field[name], digits) for name in ("mde", "mde_holm")),
                number(field["personas"], 0),
            ]
        )
    return rows


def differences(page: Page) -> list[list[str]]:
    return [[*row[:3], *row[4:]] for row in cells(page, "#differences")]


def choose(page: Page, a: RunView, b: RunView) -> None:
    page.get_by_label("Run A").select_option(a.slug)
    page.get_by_label("Run B").select_option(b.slug)
    page.wait_for_url(f"**a={a.slug}&b={b.slug}")


def test_the_comparison_of_two_chosen_runs_has_the_numbers_of_its_data_file(visit: Visit) -> None:
    site, a, b = visit.site, visit.site.run(DRIFTED), visit.site.run("baseline/tfidf")
    page = visit.open("compare.html")
    choose(page, a, b)
    expect(page.locator("#summary")).to_contain_text(f"A ({a.name} †) is better than B ({b.name})")
    assert differences(page) == expected_differences(site, a, b)
    page.get_by_role("button", name="Swap").click()
    expect(page.locator("#summary")).to_contain_text(f"B ({a.name} †) is better than A ({b.name})")
    assert differences(page) == expected_differences(site, b, a)


def test_a_link_to_a_comparison_opens_it(browser: Browser, visit: Visit) -> None:
    site, a, b = visit.site, visit.site.run("hf/half-judged"), visit.site.run(FINE)
    page = visit.open("compare.html")
    choose(page, a, b)
    expect(page.locator("#summary")).to_contain_text(f"A ({a.name})")
    expect(page.locator("#summary")).to_contain_text(f"B ({b.name})")
    link = page.url.removeprefix(site.address)
    with visiting(browser, site) as other:
        again = other.open(link)
        assert again.locator("#a").input_value() == a.slug
        assert again.locator("#b").input_value() == b.slug
        assert cells(again, "#differences") == cells(page, "#differences")


def test_a_run_is_not_compared_with_itself(visit: Visit) -> None:
    run = visit.site.run(FINE)
    wanted = {"p": visit.site.board.protocol, "a": run.slug, "b": run.slug}
    page = visit.open(f"compare.html#{urlencode(wanted)}")
    expect(page.locator("#status")).to_have_text("Choose two different runs.")
    expect(page.locator("#result")).to_be_hidden()


def expected_gaps(site: Site, a: RunView, b: RunView, key: str) -> list[list[str]]:
    """Id, both means and their difference of the dialogues where two runs differ most."""
    metric = next(metric for metric in site.board.metrics if metric.key == key)
    left, right = site.scores(a)["dialogues"], site.scores(b)["dialogues"]
    means = dict(zip(right["ids"], right["means"][key], strict=True))
    both = [(i, x, means.get(i)) for i, x in zip(left["ids"], left["means"][key], strict=True)]
    gaps = [(i, x, y, x - y) for i, x, y in both if x is not None and y is not None and x != y]
    gaps.sort(key=lambda gap: (-abs(gap[3]), gap[0]))
    digits = metric.digits
    return [
        [i, number(x, digits), number(y, digits), signed(d, digits)] for i, x, y, d in gaps[:25]
    ]


@pytest.mark.parametrize("key", ["composite", "rubric.empathy"])
def test_the_dialogues_where_two_runs_differ_most_are_those_of_their_scores(
    visit: Visit, key: str
) -> None:
    site, a, b = visit.site, visit.site.run(HOSTILE), visit.site.run(FINE)
    page = visit.open(kinds(site)["compare"])
    page.get_by_label("Metric", exact=True).select_option(key)
    shown = [row[:4] for row in cells(page, "#dialogues")]
    assert shown == expected_gaps(site, a, b, key)
    assert len(shown) > 10


def test_from_a_dialogue_that_differs_both_answers_are_one_click_away(visit: Visit) -> None:
    site = visit.site
    page = visit.open(kinds(site)["compare"])
    link = page.locator("#dialogues a").first
    dialogue = link.inner_text()
    link.click()
    expect(page.locator("#heading")).to_contain_text(dialogue)
    expect(page.locator(".answer h3")).to_have_text([HOSTILE, site.run(FINE).name])


# --- dialogues ------------------------------------------------------------------------------------


def listed(page: Page) -> list[str]:
    """The ids of the dialogues in the list."""
    links = page.locator("#list a").evaluate_all("links => links.map(link => link.hash.slice(1))")
    return [parse_qs(link)["d"][0] for link in links]


def rare_word(titles: list[str]) -> tuple[int, str]:
    """A word that one title has alone, and which title that is."""
    words = [set(re.findall("[a-z]{6,}", title.lower())) for title in titles]
    for place, mine in enumerate(words):
        for word in sorted(mine):
            if sum(word in title.lower() for title in titles) == 1:
                return place, word
    raise AssertionError("all words are common")


def test_search_finds_a_dialogue_by_a_word_of_its_situation(visit: Visit) -> None:
    dialogues = visit.site.dialogues()
    place, word = rare_word(dialogues["titles"])
    page = visit.open("browse.html")
    page.get_by_label("Search").fill(word.upper())
    expect(page.locator("#found")).to_have_text(f"1 of {len(dialogues['ids'])} dialogues")
    assert listed(page) == [dialogues["ids"][place]]
    page.locator("#list a").click()
    expect(page.locator("#heading")).to_contain_text(dialogues["ids"][place])
    expect(page.locator("#about")).to_contain_text(re.compile(word, re.IGNORECASE))


def test_the_browser_says_what_search_looks_at_and_whose_emotion_it_is(visit: Visit) -> None:
    page = visit.open("browse.html")
    expect(page.locator("#searched")).to_contain_text("words at the situation's beginning")
    emotion = visit.site.dialogues()["emotions"][0]
    expect(page.locator("#facts")).to_contain_text(f"Gold emotion of the first turn: {emotion}.")
    page = visit.open(kinds(visit.site)["browse without text"])
    expect(page.locator("#searched")).to_have_text(re.compile("emotion; nowhere else"))
    expect(page.locator("#about")).to_contain_text("gold emotion labels")


def test_dialogues_are_filtered_by_emotion(visit: Visit) -> None:
    dialogues = visit.site.dialogues()
    emotion, count = Counter(dialogues["emotions"]).most_common(1)[0]
    page = visit.open("browse.html")
    page.get_by_label("Gold emotion of the first turn").select_option(emotion)
    expect(page.locator("#found")).to_have_text(f"{count} of {len(dialogues['ids'])} dialogues")
    by_id = dict(zip(dialogues["ids"], dialogues["emotions"], strict=True))
    assert [by_id[one] for one in listed(page)] == [emotion] * count


def test_dialogues_with_flagged_answers_can_be_shown_alone(visit: Visit) -> None:
    site, run = visit.site, visit.site.run(FINE)
    scores = site.scores(run)["dialogues"]
    flagged = [i for i, n in zip(scores["ids"], scores["flagged"], strict=True) if n]
    assert 0 < len(flagged) < len(scores["ids"])
    page = visit.open(browse(site, m=run.slug))
    page.get_by_label("Only with flagged answers").check()
    expect(page.locator("#list li")).to_have_count(len(flagged))
    assert sorted(listed(page)) == sorted(flagged)
    page = visit.open(browse(site, m=run.slug, f=1))
    assert sorted(listed(page)) == sorted(flagged)


def test_dialogues_are_ordered_by_a_models_scores(visit: Visit) -> None:
    site, run = visit.site, visit.site.run(FINE)
    scores = site.scores(run)["dialogues"]
    means = dict(zip(scores["ids"], scores["means"]["rubric.empathy"], strict=True))
    page = visit.open(browse(site, m=run.slug))
    page.get_by_label("Order").select_option(f"{run.slug} rubric.empathy")
    expect(page.locator("#list a").first).to_contain_text(number(min(means.values()), 2))
    assert [means[one] for one in listed(page)] == sorted(means.values())


def test_a_dialogue_shows_its_person_its_history_and_what_two_models_answered(visit: Visit) -> None:
    site, runs = visit.site, [visit.site.run(HOSTILE), visit.site.run(DRIFTED)]
    dialogue = site.dialogues()["ids"][3]
    text = site.data(f"{site.board.protocol}/text-{site.dialogues()['shards'][3]}")[dialogue]
    page = visit.open(browse(site, d=dialogue, t=2, m=",".join(run.slug for run in runs)))
    page.locator("#about summary").click()
    expect(page.locator("#about")).to_contain_text(text["situation"])
    assert squeezed(text["profile"]) in squeezed(page.locator("#about").inner_text())
    asked = [one["content"] for one in text["messages"] if one["role"] == "user"][:3]
    talk = page.locator(".talk > .user .said")
    assert [squeezed(one) for one in talk.all_text_contents()] == [squeezed(one) for one in asked]
    for run, answer in zip(runs, page.locator(".answer").all(), strict=True):
        check_answer(site, answer, run, site.answer(run, dialogue, 2))


def squeezed(text: str) -> str:
    return " ".join(text.split())


def check_answer(site: Site, answer: Any, run: RunView, known: dict[str, Any]) -> None:
    """The four spans, each score and its evidence are in a model's answer."""
    expect(answer.get_by_role("heading")).to_contain_text(run.name)
    for summary in answer.locator("details > summary").all():
        summary.click()
    assert known["spans"].keys() >= {"understanding", "reasoning", "emotion", "response"}
    for name in ("understanding", "reasoning", "emotion", "response"):
        expect(answer).to_contain_text(known["spans"][name])
    shown = score_rows(answer)
    for metric in site.board.metrics:
        score = known["scores"].get(metric.key)
        if metric.key in known["scores"] and score is not None:
            printed = number(score, 0 if score == int(score) else 2)
            mark = "†" if templating.marked(run, metric) else ""
            assert shown[f"{metric.label} {metric.low:g}{DASH}{metric.high:g}"] == printed + mark
    expect(answer.locator(".evidence").filter(has_text=HOSTILE)).not_to_have_count(0)


def row_cells(row: Any) -> Any:
    return row.locator("th, td")


def test_a_link_to_a_turn_of_models_restores_them(visit: Visit) -> None:
    site, runs = visit.site, [visit.site.run(DRIFTED), visit.site.run(FINE)]
    dialogues = site.dialogues()
    dialogue, turns = dialogues["ids"][5], dialogues["turns"][5]
    page = visit.open(browse(site, d=dialogue, t=1, m=",".join(run.slug for run in runs)))
    expect(page.locator("#heading")).to_have_text(f"Dialogue {dialogue}, turn 2 of {turns}")
    expect(page.locator(".answer h3 bdi")).to_have_text([run.name for run in runs])
    expect(page.locator("#turns [aria-current]")).to_have_text("2")
    expect(page.locator("#list [aria-current]")).to_contain_text(dialogue)


def test_only_the_files_of_the_dialogue_are_loaded(visit: Visit) -> None:
    site, a, b = visit.site, visit.site.run(WINDED), visit.site.run(FINE)
    shards = site.scores(a)["dialogues"]["shards"]
    assert max(shards) > 0
    dialogue = site.scores(a)["dialogues"]["ids"][shards.index(1)]
    visit.open(browse(site, d=dialogue, m=f"{a.slug},{b.slug}"))
    protocol = site.board.protocol
    assert visit.data_files() == {
        "index",
        *(f"{protocol}/dialogues", f"{protocol}/text-0"),
        *(f"runs/{a.slug}/scores", f"runs/{a.slug}/turns-1"),
        *(f"runs/{b.slug}/scores", f"runs/{b.slug}/turns-0"),
    }


def test_next_and_previous_walk_the_list_and_back_leads_back(visit: Visit) -> None:
    ids = visit.site.dialogues()["ids"]
    page = visit.open("browse.html")
    heading, back = page.locator("#heading"), page.get_by_role("button", name="Previous dialogue")
    expect(heading).to_contain_text(ids[0])
    expect(back).to_be_disabled()
    page.get_by_role("button", name="Next dialogue").click()
    expect(heading).to_contain_text(ids[1])
    page.get_by_role("button", name="Turn 2", exact=True).click()
    expect(heading).to_contain_text("turn 2")
    expect(page.locator("#turns [aria-current]")).to_be_focused()
    page.go_back()
    expect(heading).to_contain_text("turn 1")
    back.click()
    expect(heading).to_contain_text(ids[0])
    page = visit.open(browse(visit.site, d=ids[-1]))
    expect(page.get_by_role("button", name="Next dialogue")).to_be_disabled()


def test_up_to_four_models_are_shown_and_a_fifth_cannot_be_chosen(visit: Visit) -> None:
    runs = visit.site.board.runs
    page = visit.open(browse(visit.site, m=runs[0].slug))
    page.locator("#models > summary").click()
    for place, run in enumerate(runs[1:4], 2):
        page.locator(f"#model-boxes input[value='{run.slug}']").check()
        expect(page.locator(".answer")).to_have_count(place)
    expect(page.locator("#model-boxes input:not(:checked):not(:disabled)")).to_have_count(0)
    page.locator(f"#model-boxes input[value='{runs[0].slug}']").uncheck()
    expect(page.locator(".answer h3")).to_have_count(3)


def test_a_link_to_a_dialogue_that_is_not_there_says_so(visit: Visit) -> None:
    for dialogue in ("nowhere", "__proto__", "../../index", HOSTILE):
        page = visit.open(browse(visit.site, d=dialogue))
        expect(page.locator("#status")).to_contain_text(f"There is no dialogue {dialogue}")
        expect(page.locator("#dialogue")).to_be_hidden()
    page.locator("#list a").first.click()
    expect(page.locator("#dialogue")).to_be_visible()
    expect(page.locator("#status")).to_have_text("")


@pytest.mark.parametrize("name", ["nowhere", "__proto__", "../../x", HOSTILE])
def test_a_link_to_a_model_that_is_not_there_says_so(visit: Visit, name: str) -> None:
    site = visit.site
    page = visit.open(browse(site, m=f"{name},{site.run(FINE).slug}"))
    expect(page.locator(".reader")).to_contain_text(f"There is no run {name}")
    page = visit.open(f"compare.html#{urlencode({'p': site.board.protocol, 'a': name})}")
    expect(page.locator("#status")).to_contain_text(f"There is no run {name}")


def test_a_data_file_that_is_gone_is_named(visit: Visit) -> None:
    run = visit.site.run(FINE)
    visit.page.route("**/turns-0.js", lambda route: route.abort())
    page = visit.open(browse(visit.site, m=run.slug))
    said = f"The file data/runs/{run.slug}/turns-0.js could not be loaded."
    expect(page.locator("#status")).to_contain_text(said)
    expect(page.locator("#dialogue")).to_be_hidden()
    assert visit.wrong
    visit.wrong.clear()  # it is this test's doing


def test_a_link_to_a_protocol_that_is_not_there_says_so(visit: Visit) -> None:
    for name in ("browse.html", "compare.html"):
        page = visit.open(f"{name}#p=nowhere")
        expect(page.locator("#status")).to_contain_text("There is no protocol nowhere")


def test_a_turn_that_is_not_there_is_the_nearest_one(visit: Visit) -> None:
    turns = visit.site.dialogues()["turns"][0]
    for wanted, shown in (("99", turns), ("-3", 1), ("x", 1)):
        page = visit.open(browse(visit.site, t=wanted))
        expect(page.locator("#heading")).to_contain_text(f"turn {shown} of {turns}")


def test_where_text_may_not_be_shown_there_are_scores_and_a_sentence(visit: Visit) -> None:
    board = visit.site.silent
    page = visit.open(kinds(visit.site)["browse without text"])
    expect(page.locator("#about")).to_contain_text("text is not on this site")
    expect(page.locator(".said, .evidence")).to_have_count(0)
    scores = page.locator(".answer tbody tr").filter(has_text="Empathy").locator("td")
    expect(scores).to_have_text(re.compile("^([1-5]|—.*)$"))
    expect(page.locator("#list a").first).to_contain_text(listed(page)[0])
    assert visit.data_files().isdisjoint({f"{board.protocol}/text-0"})


# --- what machines read ---------------------------------------------------------------------------


def exported(site: Site, page: Page) -> dict[str, pd.DataFrame]:
    """The tables that the page's links lead to, read by pandas."""
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        "csv": pd.read_csv,
        "json": pd.read_json,
        "parquet": pd.read_parquet,
    }
    found = {}
    for kind, read in readers.items():
        link = page.locator(f"a[href$='.{kind}'][download]").get_attribute("href")
        found[kind] = read(site.folder / str(link))
    return found


def test_exports_have_the_figures_that_the_table_shows(visit: Visit) -> None:
    site = visit.site
    page = visit.open("index.html")
    shown = dict(zip(names(page), cells(page, "#table"), strict=True))
    for kind, table in exported(site, page).items():
        ranked = table[table["ranked"].astype(bool)]
        assert set(ranked["name"]) == set(shown), kind
        for place, metric in enumerate(site.board.metrics, start=2):
            for row in ranked[ranked["metric"] == metric.key].to_dict("records"):
                text = shown[row["name"]][place]
                assert text.split()[0].rstrip("†") == templating.number(row["mean"], metric.digits)
                assert text.endswith(templating.span(row["low"], row["high"], metric.digits))


def test_exports_can_be_saved_from_a_server(browser: Browser, site: Site, tmp_path: Path) -> None:
    with served(site) as there, visiting(browser, there) as visit:
        page = visit.open("index.html")
        for kind in ("CSV", "JSON", "Parquet"):
            with page.expect_download() as download:
                page.get_by_role("link", name=kind, exact=True).click()
            saved = tmp_path / download.value.suggested_filename
            download.value.save_as(saved)
            assert saved.suffix == f".{kind.lower()}"
            assert saved.read_bytes() == (site.folder / "exports" / saved.name).read_bytes()


def test_leaderboard_json_is_linked_and_as_its_schema_says(visit: Visit) -> None:
    page = visit.open("index.html")
    links = page.locator("#data ~ ul a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    assert {"leaderboard.json", "leaderboard.schema.json", "feed.xml", "cite.bib"} <= set(links)
    schema = json.loads((visit.site.folder / "leaderboard.schema.json").read_text("utf-8"))
    content = json.loads((visit.site.folder / "leaderboard.json").read_text("utf-8"))
    Draft202012Validator(schema).validate(content)


# --- for everybody --------------------------------------------------------------------------------

WCAG = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
PRACTICE = "best-practice"
#: Nothing is fetched: the pages' policy doesn't let anything be.
AXE_OPTIONS = {
    "runOnly": [*WCAG, PRACTICE],
    "resultTypes": ["violations"],
    "preload": False,
}


def violations(page: Page) -> list[dict[str, Any]]:
    """What axe-core finds on the page as it is."""
    page.evaluate(Axe().axe_script)
    found = page.evaluate("options => axe.run(options)", AXE_OPTIONS)
    listed: list[dict[str, Any]] = found["violations"]
    return listed


def told(found: list[dict[str, Any]], *, practice: bool) -> list[str]:
    """Violations in a line each; those of good practice apart from those of WCAG."""
    return [
        f"{one['impact']} {one['id']}: {one['help']}: {node['target']}"
        for one in found
        for node in one["nodes"][:3]
        if (PRACTICE in one["tags"]) is practice
    ]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_kind_of_page(
    browser: Browser, site: Site, scheme: str, width: int
) -> None:
    size = {"width": width, "height": 800}
    with visiting(browser, site, color_scheme=scheme, viewport=size) as visit:
        found = {kind: violations(visit.open(name)) for kind, name in kinds(site).items()}
    against = {kind: told(one, practice=False) for kind, one in found.items()}
    unwise = {kind: told(one, practice=True) for kind, one in found.items()}
    nothing: dict[str, list[str]] = {kind: [] for kind in KINDS}
    assert against == nothing, "against WCAG 2.2 A and AA"
    assert unwise == nothing, "against good practice"


def test_axe_sees_a_fault_that_was_planted(visit: Visit) -> None:
    page = visit.open("method.html")
    page.locator("html").evaluate("one => one.removeAttribute('lang')")
    page.locator("h1").evaluate("one => { one.style.color = '#eee'; }")
    assert {one["id"] for one in violations(page)} == {"html-has-lang", "color-contrast"}


FOCUS = """() => {
    const one = document.activeElement;
    const [style, box] = [getComputedStyle(one), one.getBoundingClientRect()];
    return {
        name: one.tagName + " " + one.innerText.slice(0, 40),
        width: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
        seen: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight,
    };
}"""


def tabbed(page: Page, stops: int) -> list[dict[str, Any]]:
    """What has the focus after each of some presses of Tab."""
    found = []
    for _ in range(stops):
        page.keyboard.press("Tab")
        found.append(page.evaluate(FOCUS))
    return found


def test_tab_reaches_everything_from_the_skip_link_on_and_is_always_seen(visit: Visit) -> None:
    page = visit.open("index.html")
    stops = tabbed(page, 40)
    said = [stop["name"].partition(" ")[2] for stop in stops]
    assert said[0] == "Skip to the content"
    for name in ("Leaderboard", "Compare", "Dialogues", "Method", "Theme: system"):
        assert name in said
    assert [name for name in said if name in ("Composite", "Empathy")] == ["Composite", "Empathy"]
    assert [stop["name"] for stop in stops if stop["width"] < 2 or not stop["seen"]] == []


def test_the_skip_link_leads_to_the_content(visit: Visit) -> None:
    page = visit.open("index.html")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


@pytest.mark.parametrize("width", [320, 768])
def test_no_page_scrolls_sideways(browser: Browser, site: Site, width: int) -> None:
    size = {"width": width, "height": 640}
    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    with visiting(browser, site, viewport=size) as visit:
        wide = {kind: visit.open(name).evaluate(beyond) for kind, name in kinds(site).items()}
        assert wide == dict.fromkeys(KINDS, 0)
        page = visit.open("index.html")
        table = page.get_by_role("region", name="Ranking")
        assert table.evaluate("one => one.scrollWidth > one.clientWidth")
        expect(table).to_have_attribute("tabindex", "0")


def test_on_paper_there_are_whole_tables_and_no_controls(visit: Visit) -> None:
    page = visit.open("index.html")
    page.emulate_media(media="print")
    for gone in ("header nav", "#controls", ".skip"):
        expect(page.locator(gone).first).to_be_hidden()
    expect(page.locator("#table tbody tr:visible")).to_have_count(len(visit.site.board.runs))
    expect(page.locator("#table tbody td b").first).to_be_visible()
    overflow = "one => getComputedStyle(one).overflowX"
    assert page.locator("#table").locator("..").evaluate(overflow) == "visible"
    page = visit.open(kinds(visit.site)["compare"])
    expect(page.locator("#choice")).to_be_hidden()
    expect(page.locator("#differences tbody tr")).not_to_have_count(0)
    page = visit.open(kinds(visit.site)["browse"])
    expect(page.locator(".answer").first).to_be_visible()
    expect(page.locator(".finder")).to_be_hidden()


#: What stands in a cell for the eye: its own text or, where a button is hidden, what replaces it.
PRINTED = """heads => heads.map(head => {
    const before = getComputedStyle(head, "::before").content;
    return (before === "none" ? "" : before) + " " + head.innerText;
})"""


def test_a_printed_header_names_every_column(visit: Visit) -> None:
    page = visit.open("index.html")
    page.emulate_media(media="print")
    metrics = [metric.label for metric in visit.site.board.metrics]
    shown = page.locator("#table thead th").evaluate_all(PRINTED)
    assert all(any(label in text for text in shown) for label in metrics)
