"""The leaderboard's charts: what they show, what they may not hold, and that they don't vary."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from kardiabench.emotions import EMOTIONS
from leaderboard.charts import drawing
from leaderboard.charts.confusion import confusion
from leaderboard.charts.cost import CostPoint, cost_quality
from leaderboard.charts.flags import FlagRow, flags
from leaderboard.charts.intervals import IntervalRow, intervals
from leaderboard.charts.labels import columns_of, shortened
from leaderboard.charts.radar import Axis, Series, radar
from leaderboard.charts.turns import TurnPoint, TurnSeries, turn_curve

SVG = "{http://www.w3.org/2000/svg}"
AXES = [Axis(name, 1, 5) for name in ("Relevance", "Fluency", "Empathy")]
NAMES = sorted(str(emotion) for emotion in EMOTIONS)
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    '"];alert(1)//',
    "datum.x[0].y",
    "' + toString(1) + '",
    "a:Q",
    "count()",
    "]]>&amp;</text><script>",
    "مرحبا/نموذج",
    "url(#a)",
]


def line(label, mean=3.0):
    return TurnSeries(label, [TurnPoint(n, mean + n / 10, 2, 4.5, 90 - n) for n in range(1, 9)])


def matrix(rows=32):
    return [[(7 * n + 3 * m) % 5 * (n != 4) for m in range(rows + 1)] for n in range(rows)]


def one_of_each(name, label="A picture"):
    """Each chart, with `name` for every word that is somebody's."""
    return {
        "radar": radar([Axis(name, 0, 1), *AXES], [Series(name, [0.5, 2, 3, 4])] * 6, label=label),
        "intervals": intervals(
            [IntervalRow(name, 2, 1.5, 2.5, name, name), IntervalRow(name, 2, 1, 3, "floor")],
            name,
            1,
            5,
            label=label,
        ),
        "confusion": confusion(matrix(), [name, *NAMES[1:]], name, label=label),
        "turns": turn_curve([line(name), line(name)], 1, 5, name, label=label),
        "flags": flags([FlagRow(name, 3, 40), FlagRow(name, 0, 0)], label=label),
        "cost": cost_quality(
            [CostPoint(name, 0.01, 2, 1, 3), CostPoint(name, 0, 4)], name, label=label
        ),
    }


@pytest.fixture(scope="module")
def plain():
    return one_of_each("openai/gpt-4o")


def texts(svg):
    return ["".join(element.itertext()) for element in ET.fromstring(svg).iter(f"{SVG}text")]


def strokes(svg, colour):
    return [path for path in ET.fromstring(svg).iter() if path.get("stroke") == colour]


def dots(svg, colour=drawing.SERIES[0]):
    """The points of a series: small shapes that are filled."""
    return [
        path
        for path in ET.fromstring(svg).iter(f"{SVG}path")
        if path.get("fill") == colour and path.get("fill-opacity") is None
    ]


# --- all of them ------------------------------------------------------------------------------


def test_a_chart_is_one_image_with_a_label_that_its_page_scales(plain):
    for svg in plain.values():
        root = ET.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert (root.get("class"), root.get("role")) == ("chart", "img")
        assert root.get("aria-label") == "A picture"
        assert re.fullmatch(r"0 0 760 \d+(\.\d+)?", root.get("viewBox"))
        assert root.get("width") is None
        assert not [one for one in root.iter() if one is not root and one.get("role")]


def test_every_colour_is_the_pages(plain):
    for svg in plain.values():
        colours = set(re.findall(r'(?:fill|stroke)="([^"]*)"', svg))
        assert {c for c in colours if not c.startswith("var(--")} <= {"none", "transparent"}
        assert len(colours) > 3


def test_nothing_that_a_content_security_policy_forbids(plain):
    for svg in plain.values():
        assert not re.search(r"style|script|\son\w+=|href|foreignObject|<image|url\(", svg)


def test_letters_are_not_small(plain):
    for svg in plain.values():
        sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)px"', svg)]
        assert min(sizes) >= 11
        assert len(sizes) == len(texts(svg))


def test_all_text_lies_within_the_picture(plain):
    """As estimated: the reader's font is not known."""
    for name, svg in plain.items():
        width = float(ET.fromstring(svg).get("viewBox").split()[2])
        for left, right, text in _spans(svg):
            assert left >= -2, (name, text)
            assert right <= width + 2, (name, text)


def _spans(svg):
    """Left and right end of each text that is not turned."""
    root = ET.fromstring(svg)
    around = {child: parent for parent in root.iter() for child in parent}
    for text in root.iter(f"{SVG}text"):
        if "rotate" in text.get("transform"):
            continue
        x, node = 0.0, text
        while node is not None:
            moved = re.match(r"translate\(([-\d.]+),", node.get("transform", ""))
            x += float(moved[1]) if moved else 0.0
            node = around.get(node)
        wide = columns_of("".join(text.itertext())) * 6.7
        share = {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
        yield x - share * wide, x + (1 - share) * wide, text.text


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_words_are_words(name):
    shown = {shortened(name, width) for width in (18, 20, 26, 28, 30, 46, 60, 70)}
    for chart, svg in one_of_each(name, label=name).items():
        found = [text for text in texts(svg) if text in shown]
        assert len(found) >= 2, (chart, texts(svg))
        assert ET.fromstring(svg).get("aria-label") == name
        tags = {element.tag.removeprefix(SVG) for element in ET.fromstring(svg).iter()}
        assert tags <= {"svg", "g", "path", "line", "rect", "text"}


def test_trick_characters_and_long_names_do_not_break_a_chart():
    name = "a\x00\x1b\u202eb\ud800\ufffe\n\t" + "c" * 500
    for svg in one_of_each(name, label=name).values():
        found = [text for text in texts(svg) if text.startswith("a\ufffd\ufffdb\ufffd\ufffd c")]
        assert found
        assert all(len(text) <= 70 and "\u2026" in text for text in found)


def test_names_that_look_alike_when_shortened_are_rows_of_their_own():
    rows = [IntervalRow("x" * 100, n, None, None) for n in (2, 3, 4)]
    assert texts(intervals(rows, "t", 1, 5, label="")).count(shortened("x" * 100, 30)) == 3


def test_equal_input_gives_equal_bytes_in_another_process_and_another_order(plain):
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_charts, hashlib\n"
        "test_charts.one_of_each('other')\n"
        "text = ''.join(test_charts.one_of_each('openai/gpt-4o').values())\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    import hashlib

    environment = {**os.environ, "LC_ALL": "C", "TZ": "Asia/Kolkata"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    here = hashlib.sha256("".join(plain.values()).encode()).hexdigest()
    assert done.stdout.strip() == here
    assert one_of_each("openai/gpt-4o") == plain


def test_series_differ_by_dash_and_shape_and_not_by_colour_alone(plain):
    for svg in (plain["radar"], turn_curve([line(str(n)) for n in range(6)], 1, 5, "y", label="")):
        looks = [
            (strokes(svg, colour)[-1].get("stroke-dasharray"), dots(svg, colour)[-1].get("d"))
            for colour in drawing.SERIES
        ]
        assert len({dash for dash, _ in looks}) == len({shape for _, shape in looks}) == 6


# --- one at a time ------------------------------------------------------------------------------


def test_a_missing_value_breaks_the_polygon_and_has_no_point():
    whole = radar(AXES, [Series("a", [2, 3, 4])], label="")
    broken = radar(AXES, [Series("a", [2, None, float("nan")])], label="")
    assert (len(dots(whole)), len(dots(broken))) == (3 + 1, 1 + 1)  # and one in the key
    assert "fill-opacity" in whole
    assert "fill-opacity" not in broken


def test_a_radar_of_nothing_known_is_a_web_with_a_key():
    svg = radar(AXES, [Series("a", [None] * 3)], label="")
    assert {"a", "Relevance"} <= set(texts(svg))
    assert len(dots(svg)) == 1


def test_polygons_reach_the_rim_at_the_best_value_and_the_centre_at_the_worst():
    svg = radar([Axis(name, 0, 2) for name in "abcd"], [Series("m", [2, 0, 1, 2])], label="")
    line = next(path for path in strokes(svg, drawing.SERIES[0]) if path.tag == f"{SVG}path")
    assert line.get("d").startswith("M380,44L380,194L380,269L230,194L380,44")


@pytest.mark.parametrize(
    ("axes", "values"),
    [(AXES, [1, 2, 6]), (AXES, [1, 2]), (AXES[:2], [1, 2]), ([Axis("a", 1, 1)] * 3, [1, 1, 1])],
)
def test_a_radar_refuses_what_it_cannot_draw(axes, values):
    with pytest.raises(ValueError):
        radar(axes, [Series("a", values)], label="")


def test_more_series_than_can_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="7 series"):
        radar(AXES, [Series("a", [1, 2, 3])] * 7, label="")
    with pytest.raises(ValueError, match="7 series"):
        turn_curve([line("a")] * 7, 1, 5, "y", label="")


@pytest.mark.parametrize("count", [1, 60])
def test_one_row_or_sixty(count):
    rows = [IntervalRow(f"model {n}", 2 + n / 60, 1.5, 3.5) for n in range(count)]
    svg = intervals(rows, "Empathy", 1, 5, label="")
    assert len(dots(svg)) == count
    assert [text for text in texts(svg) if text.startswith("model ")] == [r.label for r in rows]
    bars = flags([FlagRow(f"model {n}", n, 60) for n in range(count)], label="")
    assert sum(text.startswith("model ") for text in texts(bars)) == count


def test_sixty_one_rows_or_none_are_refused():
    for count in (0, 61):
        with pytest.raises(ValueError, match=f"{count} rows"):
            intervals([IntervalRow("m", 2, 1, 3)] * count, "t", 1, 5, label="")
        with pytest.raises(ValueError, match=f"{count} rows"):
            flags([FlagRow("m", 1, 2)] * count, label="")


def test_an_interval_is_said_and_drawn_and_what_is_missing_is_not():
    rows = [
        IntervalRow("whole", 3, 2, 4),
        IntervalRow("point alone", 3, None, None),
        IntervalRow("half an interval", 2, None, 4),
        IntervalRow("nothing", None, None, None, note="no verdicts"),
        IntervalRow("not a number", float("nan"), 1, 2),
    ]
    svg = intervals(rows, "Empathy", 1, 5, label="")
    assert {"3.00 [2.00, 4.00]", "3.00", "2.00", "no score", "no verdicts"} <= set(texts(svg))
    assert texts(svg).count("no score") == 2
    assert (len(dots(svg)), len(strokes(svg, drawing.SERIES[0]))) == (3, 3 + 1)


def test_an_interval_beyond_the_axis_ends_there_in_an_arrow():
    inside = intervals([IntervalRow("m", 4, 3, 5)], "t", 1, 5, label="")
    beyond = intervals([IntervalRow("m", 4, 0.5, 5.5)], "t", 1, 5, label="")
    assert len(dots(beyond)) == len(dots(inside)) + 2
    assert "4.00 [0.50, 5.50]" in texts(beyond)
    with pytest.raises(ValueError, match="axis from 1 to 5"):
        intervals([IntervalRow("m", 5.2, 5, 5.5)], "t", 1, 5, label="")
    assert intervals([IntervalRow("m", 5 + 1e-12, 5, 5)], "t", 1, 5, label="")


def test_floors_have_a_mark_of_their_own_and_a_key():
    svg = intervals(
        [IntervalRow("m", 3, 2, 4), IntervalRow("f", 2, 1, 3, "floor")], "t", 1, 5, label=""
    )
    assert "floor (baseline)" in texts(svg)
    assert len(dots(svg, drawing.PAPER)) == 2  # hollow: the floor and its key
    assert {d.get("d") for d in dots(svg)}.isdisjoint(d.get("d") for d in dots(svg, drawing.PAPER))
    alone = intervals([IntervalRow("m", 3, 2, 4)], "t", 1, 5, label="")
    assert "floor (baseline)" not in texts(alone)


def test_the_shade_is_the_share_of_the_row():
    labels = ["a", "b", "c"]
    counts = [[98, 2, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    svg = confusion(counts, labels, "no label", label="")
    cells = [p.get("fill") for p in ET.fromstring(svg).iter(f"{SVG}path") if not p.get("stroke")]
    zero = [drawing.HEAT[0]] * 4  # two for each of the rows that have replies
    assert cells == [*zero, drawing.HEAT[9], drawing.HEAT[1], drawing.HEAT[7], drawing.HEAT[7]]
    assert any("a blank row has no replies" in text for text in texts(svg))
    assert len(strokes(svg, drawing.INK)) == 2  # the diagonal, where there are replies


def test_a_confusion_matrix_of_all_emotions():
    svg = confusion(matrix(), NAMES, "no label", label="")
    assert [text for text in texts(svg) if text in NAMES] == NAMES * 2
    assert len(svg) < 150_000


@pytest.mark.parametrize("counts", [[[1, 2]], [[1, 2, 3]], [[1, -2, 3], [0, 0, 0]]])
def test_a_matrix_of_another_shape_is_refused(counts):
    with pytest.raises(ValueError, match=r"matrix|count"):
        confusion(counts, ["a", "b"], "none", label="")


def test_a_missing_turn_breaks_the_curve():
    points = [TurnPoint(n, 3, 2, 4, 10 * n) for n in (1, 2, 4, 5)]
    points.append(TurnPoint(7, None, None, None, 0))
    svg = turn_curve([TurnSeries("m", points[::-1])], 1, 5, "Empathy", label="")
    curves = [p for p in strokes(svg, drawing.SERIES[0]) if p.tag == f"{SVG}path"]
    assert [path.get("d").count("L") for path in curves] == [1, 1]
    assert len(dots(svg)) == 4 + 1
    assert {"10", "20", "40", "50", "0", "Replies scored", "Empathy"} <= set(texts(svg))


def test_many_series_have_bars_and_few_have_bands():
    few, many = ([line(str(n)) for n in range(count)] for count in (2, 3))
    assert turn_curve(few, 1, 5, "y", label="").count("fill-opacity") == 2
    bars = strokes(turn_curve(many, 1, 5, "y", label=""), drawing.SERIES[2])
    assert sum(bar.get("stroke-width") == "1.5" for bar in bars) == 8


@pytest.mark.parametrize("turns", [(1, 1), (0, 1), (1, 25)])
def test_turns_that_cannot_be_are_refused(turns):
    points = [TurnPoint(turn, 3, 2, 4, 1) for turn in turns]
    with pytest.raises(ValueError, match="turn"):
        turn_curve([TurnSeries("m", points)], 1, 5, "y", label="")


def test_a_bar_is_as_long_as_its_share_and_says_the_counts():
    rows = [FlagRow("a", 10, 100), FlagRow("b", 5, 100), FlagRow("c", 0, 7), FlagRow("d", 0, 0)]
    svg = flags(rows, label="")
    said = {"10 of 100 (10.0%)", "5 of 100 (5.0%)", "0 of 7 (0.0%)", "none judged"}
    assert said <= set(texts(svg))
    paths = [p for p in ET.fromstring(svg).iter(f"{SVG}path") if p.get("fill") == drawing.ACCENT]
    lengths = [float(re.search(r"h([\d.]+)", path.get("d"))[1]) for path in paths]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=0.02)
    assert lengths[2:] == [0]


def test_more_flagged_than_judged_is_refused():
    with pytest.raises(ValueError, match="5 of 4"):
        flags([FlagRow("a", 5, 4)], label="")


def test_what_costs_nothing_stands_in_a_column_of_its_own():
    points = [CostPoint("free", 0, 2), CostPoint("dear", 0.01, 3), CostPoint("cheap", 0.0001, 3)]
    svg = cost_quality(points, "Empathy", label="")
    assert {"$0", "$0.0001", "$0.01", "free", "dear", "cheap"} <= set(texts(svg))
    x = [float(re.match(r"translate\(([\d.]+),", dot.get("transform"))[1]) for dot in dots(svg)]
    assert x[0] < x[2] < x[1]
    assert "$0" not in texts(cost_quality(points[1:], "Empathy", label=""))


def test_a_cost_is_where_the_axis_says():
    svg = cost_quality([CostPoint(str(c), c, 1) for c in (0.001, 0.01, 0.1)], "y", label="")
    found = ET.fromstring(svg)
    at = {
        "".join(t.itertext()): float(re.match(r"translate\(([-\d.]+),", t.get("transform"))[1])
        for t in found.iter(f"{SVG}text")
    }
    x = [float(re.match(r"translate\(([\d.]+),", dot.get("transform"))[1]) for dot in dots(svg)]
    assert x == pytest.approx([at["$0.001"], at["$0.01"], at["$0.1"]], abs=0.6)


def test_labels_that_would_cover_one_another_become_numbers_with_a_key():
    points = [CostPoint(f"org/model-{n}", 0.01, 3 + n % 5) for n in range(40)]
    found = texts(cost_quality(points, "y", label=""))
    assert {str(n) for n in range(1, 41)} <= set(found)
    assert {f"{n + 1}  org/model-{n}" for n in range(40)} <= set(found)


@pytest.mark.parametrize(("cost", "mean"), [(-1, 3), (float("nan"), 3), (1, float("nan"))])
def test_a_cost_or_a_mean_that_is_none_is_refused(cost, mean):
    with pytest.raises(ValueError, match=r"cost|mean"):
        cost_quality([CostPoint("m", cost, mean)], "y", label="")


# --- hardening ----------------------------------------------------------------------------------


def svg_of(inside, root=""):
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"{root}>{inside}</svg>'


@pytest.mark.parametrize(
    "planted",
    [
        "<script>alert(1)</script>",
        "<style>path{fill:red}</style>",
        '<path onclick="alert(1)"/>',
        '<path onload="x"/>',
        '<a href="https://example.org"><path/></a>',
        '<path href="#x"/>',
        '<path xmlns:xlink="http://www.w3.org/1999/xlink" xlink:href="#x"/>',
        '<image href="x.png"/>',
        "<foreignObject/>",
        '<use href="#x"/>',
        '<animate attributeName="fill"/>',
        '<path fill="url(https://example.org/a.svg#x)"/>',
        '<path fill="#ff0000"/>',
        '<path stroke="red"/>',
        '<path fill="var(--ink, url(x))"/>',
        '<path style="behavior: url(x)"/>',
        '<path style="background: red"/>',
        '<path clip-path="url(https://example.org)"/>',
        '<path clip-path="url(#nowhere)"/>',
        '<p xmlns="http://www.w3.org/1999/xhtml"/>',
        "<svg/>",
        '<path d="javascript:alert(1)"/>',
        "<!-- a comment -->",
        "<?php ?>",
        "<path",
    ],
)
def test_what_acts_or_loads_is_refused(planted):
    with pytest.raises(drawing.UnsafeSvgError):
        drawing.hardened(svg_of(planted))
    assert drawing.hardened(svg_of('<path d="M0,0"/>'))


def test_a_document_type_is_refused():
    with pytest.raises(drawing.UnsafeSvgError):
        drawing.hardened('<!DOCTYPE svg [<!ENTITY a "b">]>' + svg_of(""))


def test_an_event_handler_of_the_root_is_refused():
    with pytest.raises(drawing.UnsafeSvgError, match="onload"):
        drawing.hardened(svg_of("", ' onload="alert(1)"'))


def test_style_becomes_attributes():
    hard = drawing.hardened(svg_of('<path d="M0,0" style="fill: var(--ink); stroke-width: 2"/>'))
    path = ET.fromstring(hard).find(f"{SVG}path")
    assert (path.get("fill"), path.get("stroke-width")) == ("var(--ink)", "2")
    assert "style" not in hard


def test_ids_are_the_contents_own_whatever_they_were_called():
    def clipped(name, size):
        clip = f'<clipPath id="{name}"><rect width="{size}" height="1"/></clipPath>'
        return drawing.hardened(
            svg_of(f'<defs>{clip}</defs><path d="M0,0" clip-path="url(#{name})"/>')
        )

    first, second = clipped("clip1", 5), clipped("clip1", 6)
    own = re.findall(r'id="([^"]+)"', first)
    assert len(own) == 1
    assert f"url(#{own[0]})" in first
    assert own != re.findall(r'id="([^"]+)"', second)
    assert first == clipped("clip9", 5)


def test_what_is_hardened_comes_back_as_it_is(plain):
    for svg in plain.values():
        assert drawing.hardened(svg) == svg


def test_no_id_occurs_in_two_charts(plain):
    ids = [name for svg in plain.values() for name in re.findall(r'\sid="([^"]*)"', svg)]
    assert len(ids) == len(set(ids))


# --- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("openai/gpt-4o", "openai/gpt-4o"),
        ("a \n\t b", "a b"),
        ("a\u202eb\u200bc", "abc"),
        ("a\x07b\ud800", "a\ufffdb\ufffd"),
        ("meta-llama/Llama-3.1-Instruct", "meta-llama/Ll\u2026struct"),
        ("模" * 20, "模" * 6 + "\u2026" + "模" * 3),
    ],
)
def test_a_label_is_one_line_that_fits(text, shown):
    assert shortened(text, 20) == shown
    assert columns_of(shown) <= 20
