"""The pages: everything in them is somebody's words, and none of it acts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from jinja2 import TemplateError, UndefinedError

from kardiabench.svg import UnsafeSvgError, hardened
from leaderboard import templating
from leaderboard.exports import frame
from leaderboard.templating import environment, render, static_files
from leaderboard.views import (
    BoardView,
    CardView,
    Detectable,
    DriftShift,
    EmotionRow,
    FailureView,
    Figure,
    FlagView,
    JudgeView,
    Metric,
    Problem,
    RunView,
    SiteView,
    VarianceView,
)

IMAGE, SCRIPT = "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>"
TEMPLATE, PATH, TURNED = "{{7*7}}{% raw %}", "../../etc/passwd", "\u202egnp.exe\u202c"
QUOTES = "\"' onmouseover=alert(1) x='"
HOSTILE = (IMAGE, SCRIPT, TEMPLATE, PATH, TURNED, QUOTES, "javascript:alert(1)", "", "x" * 5_000)
CHART = hardened(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
    '<text x="1" y="1">a &lt;b</text></svg>',
    label="A <picture>",
)
PROTOCOL = "a3f9c1d27b604e58"
VOID = {"meta", "link", "input", "br", "img", "hr"}
TARGETS = ("href", "src")


def metrics(words: str) -> list[Metric]:
    return [
        Metric("composite", "Composite", 0, 1, "composite", words, 3),
        Metric("rubric.empathy", f"Empathy {words}", 1, 5, "rubric", words),
    ]


def run(words: str, **changes: Any) -> RunView:
    judge = JudgeView(
        "rubric", words, words, False, 0.98, {"ok": 49, words: 1}, True, words,
        [DriftShift(words, 0.2, 0.1, 0.3, True), DriftShift("other", None, None, None, False)],
        f"judges/rubric-{PROTOCOL}.html", [words],
    )  # fmt: skip
    whole = RunView(
        id="0123456789abcdef", slug="model-01234567", model=words, name=words, kind="model",
        created="2026-03-01T10:00:00+00:00", version=words, packed=True, complete=False,
        why_unranked="", turns_planned=50, turns_answered=50, statuses={words: 50},
        figures={
            "composite": Figure(0.9123, 0.9, 0.92, 2, 1, 3, 0.8, 0.95, 8, 49, 50),
            "rubric.empathy": Figure(None, scored=0, total=50),
        },
        problems={words: 2}, malformed=0.0004, cost_per_turn=None, judge_cost_per_turn=0.00042,
        tokens_in_per_turn=1234.4, tokens_out_per_turn=None, latency_p50=0.02, latency_p95=12.4,
        judges=[judge, replace(judge, name="plain", drifted=None, card=None, findings=None)],
        flags=[FlagView(words, words, words, [f"{words}/3"], 50, 0.5)],
        emotions=[EmotionRow(words, 3, 0.5, None, None)],
        variance=[VarianceView("composite", words, 0.01, [(words, 0.6)], [words])],
        failures=[FailureView(f"{words}/1", "judge", words)], failures_total=9,
        command=words, manifest=words, charts={"radar": CHART, "turns": ""},
    )  # fmt: skip
    return replace(whole, **changes)


def board(words: str, **changes: Any) -> BoardView:
    whole = BoardView(
        protocol=PROTOCOL, page="index.html", title=words, dataset=words, dialogues=9, turns=50,
        personas=8, settings=[(words, words)], metrics=metrics(words), primary="composite",
        runs=[run(words), run(words, id="f", slug="floor-1", kind="floor", judges=[])],
        unranked=[run(words, slug="not-1", why_unranked=words or "smoke")],
        detectable=[Detectable("composite", 0.1, None, 1)], text=True, licence=words,
        charts={"intervals": CHART},
    )  # fmt: skip
    return replace(whole, **changes)


def pages(words: str = "plain") -> Iterator[tuple[str, str]]:
    """Every page of a site that is full of `words`, by address."""
    first, second = board(words), board(words, page=f"board-{PROTOCOL}.html", runs=[], charts={})
    card = CardView(words, words, "judges/a-b.html", words, "judges/a-b.json")
    site = SiteView(words, words, words, words, [first, second], [card], [Problem(words, words)])
    for view in (first, second):
        yield view.page, render("board.html.j2", view.page, site=site, board=view)
    for shown in (*first.runs, *first.unranked):
        page = f"models/{shown.slug}.html"
        yield page, render("model.html.j2", page, site=site, board=first, run=shown)
    yield card.page, render("card.html.j2", card.page, site=site, card=card)
    for name in ("compare", "browse", "method"):
        yield f"{name}.html", render(f"{name}.html.j2", f"{name}.html", site=site)


class Page(HTMLParser):
    """A page's elements; complains of tags that don't close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def attributes(html: str) -> Iterator[tuple[str, str, str | None]]:
    for tag, found in Page(html).elements:
        for name, value in found.items():
            yield tag, name, value


def skeleton(html: str) -> list[tuple[str, list[str]]]:
    """Elements and the names of their attributes, in order."""
    return [(tag, sorted(found)) for tag, found in Page(html).elements]


@pytest.mark.parametrize("words", HOSTILE)
def test_hostile_words_never_become_elements_or_attributes(words: str) -> None:
    calm = dict(pages("plain" if words else ""))
    for page, html in pages(words):
        assert skeleton(html) == skeleton(calm[page]), page


def test_words_are_shown_as_they_are() -> None:
    for words in (IMAGE, TEMPLATE, PATH, QUOTES):
        for page, html in pages(words):
            if not page.startswith(("compare", "browse")):
                assert words in "".join(Page(html).text), page


@pytest.mark.parametrize("words", [*HOSTILE, "plain"])
def test_no_page_has_inline_code_or_style(words: str) -> None:
    for page, html in pages(words):
        for tag, name, value in attributes(html):
            assert not name.startswith("on"), (page, tag, name)
            assert name not in ("style", "srcdoc", "formaction"), (page, tag, name)
            if tag == "script":
                assert name in ("src", "defer"), (page, name, value)
        for tag, found in Page(html).elements:
            assert tag != "style"
            assert tag != "script" or found.get("src"), page


@pytest.mark.parametrize("words", [*HOSTILE, "plain"])
def test_links_stay_in_the_site(words: str) -> None:
    for page, html in pages(words):
        root = "../" * page.count("/")
        for tag, name, value in attributes(html):
            if name in TARGETS:
                assert value is not None
                assert re.fullmatch(r"(?:\.\./)*[\w./-]*(?:#[\w.%&=+*-]*)?", value), (page, value)
                path = value.partition("#")[0]
                assert path.count("../") == (root.count("../") if path else 0), (page, tag, value)


def test_every_page_has_the_policy_before_anything_is_loaded() -> None:
    for page, html in pages():
        kinds = [(tag, found.get("http-equiv"), found.get("content")) for tag, found in
                 Page(html).elements]  # fmt: skip
        policies = [n for n, (_, equiv, _) in enumerate(kinds) if equiv]
        loads = [n for n, (tag, _, _) in enumerate(kinds) if tag in ("script", "link", "svg")]
        assert len(policies) == 1, page
        assert policies[0] < min(loads), page
        policy = kinds[policies[0]][2]
        assert policy is not None
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_every_page_has_one_heading_a_skip_link_and_unique_ids() -> None:
    for page, html in pages():
        elements = Page(html).elements
        ids = [found["id"] for _, found in elements if "id" in found]
        assert len(ids) == len(set(ids)), page
        assert sum(tag == "h1" for tag, _ in elements) == 1, page
        named = {found[name] for _, found in elements for name in ("aria-labelledby", "for")
                 if name in found}  # fmt: skip
        assert named <= set(ids), page
        skip = next(found for tag, found in elements if tag == "a")
        assert skip["href"] == "#main"


def test_what_the_pages_load_is_there() -> None:
    for page, html in pages():
        root = "../" * page.count("/")
        for tag, found in Page(html).elements:
            target = found.get("src") or (found.get("href") if tag == "link" else None)
            if target and "static/" in target:
                assert target.removeprefix(root) in static_files(), (page, target)


def test_ids_that_scripts_ask_for_are_in_their_pages() -> None:
    by_page = dict(pages())
    scripts = {"compare.js": "compare.html", "browse.js": "browse.html", "table.js": "index.html"}
    for script, page in scripts.items():
        source = static_files()[f"static/{script}"].decode()
        asked = set(re.findall(r'byId\("([\w-]+)"\)', source))
        assert asked
        for name in asked:
            assert f'id="{name}"' in by_page[page], (script, name)


@pytest.mark.parametrize("name", [n for n in static_files() if n.endswith(".js")])
def test_scripts_never_parse_text_as_markup_or_code(name: str) -> None:
    source = static_files()[name].decode()
    for forbidden in (
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(",
        "DOMParser", "createContextualFragment", "fetch(", "XMLHttpRequest", "import(", "https:",
        'setAttribute("style', "srcdoc",
    ):  # fmt: skip
        assert forbidden not in source, forbidden
    assert source.startswith('"use strict";')


def test_the_style_loads_nothing() -> None:
    style = static_files()["static/site.css"].decode()
    assert "url(" not in style
    assert "@import" not in style
    for name in ("ink", "muted", "grid", "paper", "accent", *(f"series-{n}" for n in range(1, 7)),
                 *(f"heat-{n}" for n in range(10))):  # fmt: skip
        assert len(re.findall(rf"--{name}: light-dark\(#\w{{6}}, #\w{{6}}\);", style)) == 1, name


def test_colours_of_text_contrast_in_both_schemes() -> None:
    style = static_files()["static/site.css"].decode()
    colours = {name: (light, dark) for name, light, dark in
               re.findall(r"--([\w-]+): light-dark\(#(\w{6}), #(\w{6})\);", style)}  # fmt: skip
    for scheme in (0, 1):
        for ground in ("paper", "raised"):
            for ink in ("ink", "muted", "accent", "warn"):
                assert contrast(colours[ink][scheme], colours[ground][scheme]) >= 4.5, ink
            for shape in ("edge", *(f"series-{n}" for n in range(1, 7))):
                assert contrast(colours[shape][scheme], colours[ground][scheme]) >= 3, shape
        shades = [luminance(colours[f"heat-{n}"][scheme]) for n in range(10)]
        assert shades == sorted(shades, reverse=scheme == 0)


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
              for part in parts]  # fmt: skip
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_missing_value_is_an_error_and_no_blank() -> None:
    with pytest.raises(UndefinedError):
        render("card.html.j2", "judges/a.html", site=object())
    with pytest.raises(TemplateError):
        environment().from_string("{{ nothing }}").render()


def test_autoescape_does_not_depend_on_the_name() -> None:
    assert environment().from_string("{{ x }}").render(x="<b>") == "&lt;b&gt;"


@pytest.mark.parametrize("text", [
    IMAGE, "plain", "", "<svg", '<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
    '<svg xmlns="http://www.w3.org/2000/svg"><a href="javascript:1"/></svg>',
    '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
])  # fmt: skip
def test_only_charts_become_markup(text: str) -> None:
    with pytest.raises(UnsafeSvgError):
        templating.svg(text)


def test_a_chart_keeps_its_label_and_comes_out_as_it_went_in() -> None:
    assert str(templating.svg(CHART)) == CHART
    assert 'aria-label="A &lt;picture&gt;"' in dict(pages())["index.html"]


@pytest.mark.parametrize("more", ['style="opacity: 0.5"', 'onclick="x"', 'href="https://x"'])
def test_a_chart_that_was_not_hardened_is_refused(more: str) -> None:
    with pytest.raises(UnsafeSvgError):
        templating.svg(CHART.replace("<text ", f"<text {more} "))


def test_a_broken_chart_stops_the_page() -> None:
    with pytest.raises(UnsafeSvgError):
        view = board("plain", charts={"intervals": IMAGE})
        site = SiteView("t", None, "1", "", [view], [], [])
        render("board.html.j2", "index.html", site=site, board=view)


def row(html: str, number: int) -> str:
    body = html[html.index("<tbody>") :]
    return body.split("<tr")[number + 1].partition("</tr>")[0]


def test_a_cell_has_mean_interval_coverage_and_the_mark_of_drift() -> None:
    first = row(dict(pages())["index.html"], 0)
    assert '<b>0.912</b><sup>†</sup> <small class="low">98%</small><i>0.900\u20130.920</i>' in first
    assert '<td>— <small class="low">0%</small></td>' in first  # no score at all: not a zero
    assert "unfinished" in first
    assert 'href="models/model-01234567.html#judges"' in first


CAPTION = re.compile("<figcaption>(.*?)</figcaption>", re.DOTALL)


def test_captions_name_the_runs_whose_numbers_rest_on_a_judge_that_drifted() -> None:
    calm = run("calm", slug="calm-1", judges=[])
    view = board("plain", runs=[run("moved"), calm])
    site = SiteView("t", None, "1", "", [view], [], [])
    shown = CAPTION.findall(render("board.html.j2", "index.html", site=site, board=view))
    assert len(shown) == 1
    assert shown[0].endswith("since its card was measured: <bdi>moved</bdi>.")
    for one, mark in ((view.runs[0], True), (calm, False)):
        page = render("model.html.j2", one.page, site=site, board=view, run=one)
        assert ["†" in caption for caption in CAPTION.findall(page)] == [mark]


def test_a_metric_that_a_drifted_judge_has_no_part_in_is_not_marked() -> None:
    plain = Metric("plain.tone", "Tone", 1, 5, "rubric", "")
    one = run("x", figures={"plain.tone": Figure(3.0), "composite": Figure(0.5)})
    assert templating.drifted_judges(one) == ["rubric"]
    assert templating.moved([one], [plain]) == []
    assert templating.moved([one], metrics("x")) == [one]


def test_exports_say_which_numbers_rest_on_a_drifted_judge_and_why_a_run_has_no_rank() -> None:
    calm = run("calm", id="c", slug="calm-1", judges=[])
    figures = {"composite": Figure(0.5), "macro_f1": Figure(0.4)}
    late = run("late", id="l", slug="late-1", figures=figures, why_unranked="it is not finished")
    f1 = Metric("macro_f1", "Emotion macro-F1", 0, 1, "f1", "", 3)
    view = board("plain", runs=[run("moved"), calm], unranked=[late])
    table = frame(replace(view, metrics=[*view.metrics, f1]))
    found = table.set_index(["name", "metric"])
    assert table["drifted"].dtype == bool
    assert found["drifted"].to_dict() == {
        ("moved", "composite"): True, ("moved", "rubric.empathy"): True,
        ("calm", "composite"): False, ("calm", "rubric.empathy"): False,
        ("late", "composite"): True, ("late", "macro_f1"): False,
    }  # fmt: skip
    reasons = dict(zip(table["name"], table["why_unranked"], strict=True))
    assert reasons == {"moved": "", "calm": "", "late": "it is not finished"}


def test_pages_say_what_a_rank_is_and_what_it_is_not() -> None:
    shown = dict(pages())
    for page in ("index.html", "method.html"):
        words = " ".join("".join(Page(shown[page]).text).split())
        assert "1 + the number of runs that are surely better" in words, page
        assert "nobody surely beats" in words, page
        assert not re.search(r"apart(?:\)|,)? share a rank|can't tell apart share", words), page


def test_the_method_says_what_gated_data_show_and_where_t_errs() -> None:
    words = " ".join("".join(Page(dict(pages())["method.html"]).text).split())
    for said in (
        "the gold emotion label of every turn", "the labels that the models themselves named",
        "beyond the end of the scale", "6.6% with 32 personas and in 9.2% with 8",
        "over the turns that both have a score for",
    ):  # fmt: skip
        assert said in words


@pytest.mark.parametrize("name", [n for n in static_files() if n.endswith(".js")])
def test_scripts_never_ask_an_object_for_what_all_objects_have(name: str) -> None:
    source = re.sub(r"//.*|`[^`]*`|\"[^\"]*\"", "", static_files()[name].decode())
    assert not re.findall(r"[\w)\]] in [\w(]", source)
    for keyed in ("means", "evidence", "rows", "scores", "said", "STATUS"):
        assert not re.search(rf"\b{keyed}\[(?:key|judge|status|name|[a-z]\.slug)\]", source), keyed


def test_ties_and_rank_intervals_are_shown() -> None:
    assert '<td class="rank"><b>=2</b> <small>1\u20133</small></td>' in row(
        dict(pages())["index.html"], 0
    )


def test_floors_and_runs_without_ranks_are_named() -> None:
    html = dict(pages("why not"))["index.html"]
    assert '<tr class="floor">' in html
    assert html.index('id="unranked"') < html.index("models/not-1.html")


def test_a_model_page_links_flagged_turns_to_the_browser() -> None:
    html = dict(pages())["models/model-01234567.html"]
    assert f"../browse.html#p={PROTOCOL}&amp;d=plain&amp;t=3&amp;m=model-01234567" in html
    assert "Judges&#39;: 1 shown" in html or "Judges': 1 shown" in html


def test_fifty_models_with_nine_metrics_make_a_small_page() -> None:
    import zlib

    many = [Metric(f"rubric.d{n}", f"D{n}", 1, 5, "rubric", "d") for n in range(9)]
    figures = {m.key: Figure(n / 7, 0.1, 0.2, n, 1, 9, 0.1, 0.2, 8, 49, 50)
               for n, m in enumerate(many)}  # fmt: skip
    runs = [run("vendor/model", slug=f"model-{n}", figures=figures) for n in range(50)]
    view = board("plain", metrics=many, primary=many[0].key, runs=runs, detectable=[])
    site = SiteView("t", None, "1", "", [view], [], [])
    html = render("board.html.j2", "index.html", site=site, board=view)
    assert html.count("<tr>") >= 50
    assert len(zlib.compress(html.encode())) < 100_000


@pytest.mark.parametrize(("shown", "expected"), [
    (templating.number(None), "—"), (templating.number(float("nan")), "—"),
    (templating.number(-0.5, 1), "\u22120.5"), (templating.number(1234.5, 0), "1,234"),
    (templating.signed(0.25), "+0.25"), (templating.signed(None), "—"),
    (templating.signed(0.001), "0.00"), (templating.number(-0.001), "0.00"),
    (templating.span(None, 1.0), "—"), (templating.span(0.1, 0.2, 1), "0.1\u20130.2"),
    (templating.span(-0.1, 0.2, 1), "\u22120.1 to 0.2"),
    (templating.percent(None), "—"), (templating.percent(1.0), "100%"),
    (templating.percent(0.9999), ">99%"), (templating.percent(0.0001), "<1%"),
    (templating.percent(0.9999, 1), ">99.9%"), (templating.percent(0.984), "98%"),
    (templating.percent(0.0), "0%"), (templating.percent(0.005, 1), "0.5%"),
    (templating.dollars(None), "—"), (templating.dollars(0.0), "$0.00"),
    (templating.dollars(0.00123), "$0.0012"), (templating.dollars(3.0), "$3.00"),
    (templating.seconds(None), "—"), (templating.seconds(0.02), "20 ms"),
    (templating.seconds(1.25), "1.2 s"), (templating.seconds(12.0), "12 s"),
    (templating.day(""), "—"), (templating.turn_parts("a/b/3"), ("a/b", "3")),
])  # fmt: skip
def test_numbers_are_shown_for_people(shown: object, expected: object) -> None:
    assert shown == expected


@pytest.mark.parametrize("target", ["../x", "/etc/passwd", "a/../../b"])
def test_a_path_out_of_the_site_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="no page of the site"):
        templating.relative(target, "index.html")


def test_links_from_folders_go_up() -> None:
    assert templating.relative("judges/a b.html", "models/x.html") == "../judges/a%20b.html"
    assert templating.relative("javascript:alert(1)", "index.html") == "javascript%3Aalert%281%29"
