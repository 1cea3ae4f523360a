"""The page of curves: what it shows, what it may not hold, and what it says is missing."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest
from training_folder import SECRET, evaluation, make_folder, training_rows, write_log

from kardiabench.errors import RunError, StorageError
from kardiabench.svg import UnsafeSvgError, hardened
from trainer.curve_chart import MOST_POINTS, Line, Point, chart, short, thin
from trainer.curve_data import (
    BY_LENGTH,
    DISTINCT,
    KL,
    LENGTH,
    MASKED,
    NO_SPREAD,
    REPETITION,
    REWARD,
    TRUNCATED,
    read_folder,
)
from trainer.curve_pictures import selected
from trainer.curves import standalone_svg, write_page
from trainer.evaluations import EVALUATIONS
from trainer.ledger import LEDGER, Ledger, read_header
from trainer.log import LOG
from trainer.manifest import MANIFEST

HOSTILE = '"><script>alert(1)</script>{{ 7*7 }}\u202e'


class Page(HTMLParser):
    """The tags, attributes and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.style = ""
        self._in_style = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data
        else:
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._in_style = self._in_style and tag != "style"

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(folder: Path, source: str = "log") -> Page:
    path = write_page(folder, "ledger" if source == "ledger" else "log")
    return Page(path.read_text("utf-8"))


def labels(page: Page) -> list[str]:
    return [str(one["aria-label"]) for one in page.named("svg")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("training") / "out")


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return page_of(folder)


def test_every_measure_has_a_chart_with_its_numbers_in_words(page: Page) -> None:
    titles = [label.split(".")[0] for label in labels(page)]
    assert titles == [
        "Reward and its parts",
        "Rewarded and held-out score",
        "Each judge at the evaluations",
        "Loss",
        "KL",
    ]
    reward = labels(page)[0]
    assert "reward: 0.3438 at step 1, " in reward
    assert "format: 0.5 at step 1, 0.5 at step 6" in reward


def test_the_evaluations_stand_in_a_table_with_intervals(page: Page) -> None:
    assert "Missing here" not in page.text
    assert re.search(
        r"0\.512 \(0\.4\d\d to 0\.5\d\d\)|\d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", page.text
    )
    assert page.text.count("100.0%") >= 4


def test_the_alarm_and_the_chosen_checkpoint_are_said_and_marked(folder: Path, page: Page) -> None:
    data = read_folder(folder)
    assert [step for step, _ in data.alarms] == [6]
    assert "Alarm at step 6:" in page.text
    assert data.choice is not None
    assert data.choice.step == 2
    assert data.choice.why in page.text
    svg = (folder / "curves.html").read_text("utf-8")
    assert svg.count(">alarm</text>") == 5
    assert svg.count(">chosen</text>") == 5


def test_the_page_is_closed_no_script_no_address_no_handler(page: Page) -> None:
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "code"}
    allowed |= {"div", "section", "figure", "figcaption", "details", "summary", "table", "caption"}
    allowed |= {"thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "footer", "bdi", "span"}
    allowed |= {"ul", "li", "svg", "g", "path", "text", "line", "rect", "defs", "clippath"}
    assert {tag for tag, _ in page.tags} <= allowed
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in {"src", "href", "action", "style", "srcset"}
            assert "://" not in (value or "") or name == "xmlns"
            assert "url(" not in (value or "") or re.fullmatch(r"url\(#[\w-]+\)", value or "")


def test_the_policy_allows_this_page_s_style_and_nothing_else(page: Page) -> None:
    (policy,) = [
        str(one["content"]) for one in page.named("meta") if one.get("http-equiv") is not None
    ]
    digest = b64encode(sha256(page.style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "@import" not in page.style
    assert "url(" not in page.style


def test_no_candidate_s_text_and_no_dialogue_is_in_the_page(folder: Path, page: Page) -> None:
    assert SECRET in (folder / LEDGER).read_text("utf-8")
    assert SECRET not in (folder / "curves.html").read_text("utf-8")


def test_names_are_text_whatever_they_are(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, held_out=HOSTILE, model=HOSTILE)
    write_log(folder, [{"step": 1, "reward": 0.5, f"parts/{HOSTILE}": 0.25, "kl": "<b>"}])
    shown = page_of(folder)
    assert not shown.named("script")
    assert "{{ 7*7 }}" in shown.text
    assert "alert(1)" in shown.text


def test_log_and_ledger_agree_on_the_reward(folder: Path) -> None:
    logged, exact = read_folder(folder), read_folder(folder, "ledger")
    assert (logged.source, exact.source) == ("log", "ledger")
    steps, rewards = zip(*logged.courses[REWARD], strict=True)
    assert [*exact.courses[REWARD]] == list(zip(steps, map(pytest.approx, rewards), strict=True))
    assert exact.courses[KL] == logged.courses[KL]
    assert dict(exact.courses[NO_SPREAD]) == dict.fromkeys(range(1, 7), 0.5)
    assert exact.courses[LENGTH][0] == (1, 10.0)


def test_the_ledger_stands_in_for_a_log_that_is_not_there(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / LOG).unlink()
    shown = page_of(folder)
    assert "there is no log.jsonl with a step in it" in shown.text
    assert "from the ledger" in shown.text
    assert read_folder(folder).courses[MASKED][0] == (1, 0.0)


def test_ledgers_of_all_processes_make_one_course(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, ranks=2)
    course = read_folder(folder, "ledger").courses
    rewards = [one.reward for rank in (0, 1) for one in training_rows(3, rank)]
    assert course[REWARD][3] == (4, pytest.approx(sum(filter(None, rewards)) / len(rewards)))
    assert len(course[REWARD]) == 6


def test_steps_that_were_done_again_count_once(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    path = folder / LEDGER
    with Ledger(path, read_header(path), resume_at=2) as ledger:
        ledger.append(training_rows(2))
    course = read_folder(folder, "ledger").courses[REWARD]
    assert [step for step, _ in course] == [1, 2, 3]


def test_a_masked_candidate_is_missing_and_no_zero(tmp_path: Path) -> None:
    from training_folder import row

    folder = make_folder(tmp_path, steps=1)
    path = folder / LEDGER
    with Ledger(path, read_header(path), resume_at=1) as ledger:
        ledger.append([row(1, 0, 0, empathy=5.0), row(1, 0, 1, empathy=None)])
        ledger.append([row(2, 0, 0, empathy=None), row(2, 0, 1, empathy=None)])
    courses = read_folder(folder, "ledger").courses
    assert courses[REWARD][1:] == [(2, (1.0 + 0.625) / 2), (3, None)]
    assert courses[MASKED][1:] == [(2, 0.5), (3, 1.0)]
    assert courses["parts/rubric"][1:] == [(2, 0.625), (3, None)]
    assert courses["parts/format"][1:] == [(2, 1.0), (3, 1.0)]


def test_what_is_watched_is_the_same_from_the_log_and_from_the_ledger(tmp_path: Path) -> None:
    from training_folder import FORMAT, RUBRIC, row

    from trainer.watch import watch

    folder = make_folder(tmp_path, steps=1)
    rows = [
        row(1, 0, 0, empathy=5.0), row(1, 0, 1, empathy=5.0), row(1, 0, 2, empathy=None),
        row(1, 1, 0, empathy=2.0), row(1, 1, 1, empathy=4.0),
        row(1, 2, 0, empathy=1.0), row(1, 2, 1, empathy=None),
    ]  # fmt: skip
    path = folder / LEDGER
    with Ledger(path, read_header(path), resume_at=1) as ledger:
        ledger.append(rows)
    numbers = watch(rows, {"format": FORMAT, "rubric": RUBRIC})
    # A group with one reward has no spread to speak of, and counts neither way.
    assert numbers["zero_spread_share"] == 0.5
    courses = read_folder(folder, "ledger").courses
    for name in (NO_SPREAD, TRUNCATED, REPETITION, DISTINCT):
        assert courses[name][-1] == (2, numbers[name.removeprefix("watch/")])
    assert "length_correlation" not in numbers  # all are as long
    assert courses[BY_LENGTH][-1] == (2, None)


def test_what_is_watched_has_charts_by_our_definitions(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        [
            {
                "step": 1, "frac_reward_zero_std": 0.9, NO_SPREAD: 0.25, TRUNCATED: 0.125,
                BY_LENGTH: -0.5, REPETITION: 0.375, DISTINCT: 0.75,
            }
        ],
    )  # fmt: skip
    found = labels(page_of(tmp_path))
    assert [label.split(".")[0] for label in found] == [
        "What teaches nothing",
        "Length and reward",
        "Repetition",
    ]
    assert "groups without spread: 0.25 at step 1" in found[0]
    assert "candidates that were cut off: 0.125 at step 1" in found[0]
    assert "correlation: -0.5 at step 1" in found[1]
    assert "repeated sequences: 0.375 at step 1" in found[2]
    assert not any("0.9" in label for label in found)


def test_a_picture_of_its_own_brings_paper_and_colours(folder: Path) -> None:
    from xml.etree import ElementTree as ET

    svg = standalone_svg(read_folder(folder))
    assert svg is not None
    root = ET.fromstring(svg)
    assert "var(" not in svg
    assert svg.count(">alarm</text>") == 1
    _, _, width, height = root.attrib["viewBox"].split()
    assert (root.attrib["width"], root.attrib["height"]) == (width, height)
    assert root[0].attrib == {"width": width, "height": height, "fill": "#fbfaf7"}
    assert standalone_svg(read_folder(folder.parent)) is None


@pytest.mark.parametrize("name", [MANIFEST, EVALUATIONS, LEDGER, LOG])
@pytest.mark.parametrize("damage", ["missing", "torn", "foreign"])
def test_a_missing_or_damaged_file_is_said_and_the_rest_is_shown(
    tmp_path: Path, name: str, damage: str
) -> None:
    folder = make_folder(tmp_path)
    path = folder / name
    if damage == "missing":
        path.unlink()
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        path.write_bytes(b'\xff\x00 no JSON\n[1, 2]\n{"step": "x", "training_version": 1}\n')
    found = read_folder(folder, "ledger")
    assert bool(found.evaluations) == (name != EVALUATIONS or damage == "torn")
    assert KL in found.courses or name == LOG
    assert REWARD in found.courses
    assert (found.source == "ledger") == (name != LEDGER or damage == "torn")
    # a torn last line is one that is being written just now
    assert found.missing or damage == "torn"
    assert not any("Error" in sentence for sentence in found.missing)


@pytest.mark.parametrize("where", [".", "nowhere"])
def test_a_folder_without_a_training_gets_no_page(tmp_path: Path, where: str) -> None:
    (tmp_path / "other.jsonl").touch()
    with pytest.raises(RunError, match="holds no training; give the output folder of one"):
        write_page(tmp_path / where)
    assert [path.name for path in tmp_path.iterdir()] == ["other.jsonl"]


@pytest.mark.parametrize("name", [MANIFEST, LOG, EVALUATIONS, "ledger.rank1.jsonl"])
def test_any_file_of_a_training_gives_a_page(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "out", ranks=2)
    for path in folder.iterdir():
        if path.name != name:
            path.unlink()
    assert "Missing here" in page_of(folder).text


def test_a_page_has_the_name_of_its_folder_and_says_which_base(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "warm-grpo", model="runs/sft-one/final")
    shown = page_of(folder)
    assert "Curves of warm-grpo" in shown.text
    assert "Base model sft-one/final" in shown.text
    assert "runs/" not in shown.text


def test_a_training_without_anything_in_it_gives_a_page_that_says_so(tmp_path: Path) -> None:
    (tmp_path / LOG).touch()
    shown = page_of(tmp_path)
    assert "There are no numbers yet." in shown.text
    assert "has no training.json" in shown.text
    assert "there is no evaluation yet" in shown.text
    assert not shown.named("svg")


@pytest.mark.parametrize(
    "content", ['{"training_version": 1}', '{"training_version": 1, "recipe": 3, "scorers": []}']
)
def test_a_manifest_without_its_parts_is_no_crash(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content, "utf-8")
    assert "There are no numbers yet." in page_of(tmp_path).text


def test_numbers_beyond_floats_and_words_are_left_out(tmp_path: Path) -> None:
    lines = (
        '{"step": 1, "kl": 1' + "0" * 400 + '}\n{"step": 2, "kl": "0.5"}\n{"step": 3, "kl": 2}\n'
    )
    (tmp_path / LOG).write_text(lines, "utf-8")
    assert read_folder(tmp_path).courses[KL] == [(1, None), (2, None), (3, 2.0)]
    assert "KL: 2 at step 3" in labels(page_of(tmp_path))[0]


def test_the_page_is_the_same_for_the_same_folder(folder: Path) -> None:
    assert write_page(folder).read_bytes() == write_page(folder).read_bytes()
    assert [path.name for path in folder.glob(".curves*")] == []


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "curves.html").mkdir()
    (tmp_path / LOG).touch()
    with pytest.raises(StorageError, match=r"curves\.html cannot be written"):
        write_page(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.html", LOG]


def test_an_sft_training_has_its_loss_and_asks_for_no_evaluation(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / EVALUATIONS).unlink()
    (folder / LEDGER).unlink()
    text = (folder / MANIFEST).read_text("utf-8").replace('"stage": "grpo"', '"stage": "sft"')
    (folder / MANIFEST).write_text(text, "utf-8")
    write_log(folder, [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 3.0}])
    shown = page_of(folder)
    assert "Loss. training: 2 at step 1" in labels(shown)[0]
    assert "held-out personas: 3 at step 1" in labels(shown)[0]
    assert "Missing here" not in shown.text


def test_more_judges_than_a_chart_takes_get_another_one(tmp_path: Path) -> None:
    parts = {f"parts/judge {n}": n / 10 for n in range(8)}
    write_log(tmp_path, [{"step": 1, "reward": 0.5, **parts}])
    first, second = labels(page_of(tmp_path))
    assert first.startswith("Reward and its parts. reward: 0.5")
    assert second.startswith("Further parts of the reward. judge 5: 0.5")
    assert "judge 7" in second


def test_long_courses_are_thinned_to_means_of_neighbours() -> None:
    points = [Point(step, float(step % 2)) for step in range(10 * MOST_POINTS)]
    thinned = thin(points)
    assert len(thinned) == MOST_POINTS
    assert {point.value for point in thinned} == {0.5}
    assert thinned[0].step == 4.5
    assert thin(points[:5]) == points[:5]
    assert thin([Point(n, None) for n in range(2 * MOST_POINTS)])[0].value is None


def test_tables_hold_the_first_and_the_last_step() -> None:
    assert selected(range(1, 4)) == [1, 2, 3]
    some = selected(range(1, 1001))
    assert (len(some), some[0], some[-1]) == (12, 1, 1000)


def test_a_missing_value_breaks_the_line() -> None:
    values = [1.0, 2.0, None, 3.0, 4.0]
    drawn = chart([Line("x", [Point(n, v) for n, v in enumerate(values)])], [], label="x")
    assert len(re.findall(r'd="M[\d.,]+L[\d.,]+"', drawn)) == 2


@pytest.mark.parametrize("count", [0, 7])
def test_a_chart_takes_one_to_six_lines(count: int) -> None:
    with pytest.raises(ValueError, match="it takes 1 to 6"):
        chart([Line("x", [Point(1, 1.0)])] * count, [], label="x")


def test_a_chart_of_one_point_is_drawn() -> None:
    assert "<path" in chart([Line("x", [Point(3, 0.0)])], [], label="x")


@pytest.mark.parametrize(
    "svg",
    [
        '<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><g onclick="x"><path d="M0,0"/></g></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><path fill="url(http://x)"/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><path fill="red"/></svg>',
        '<svg xmlns="http://www.w3.org/2000/svg"><image/></svg>',
        '<!DOCTYPE x><svg xmlns="http://www.w3.org/2000/svg"/>',
        "<svg",
    ],
)
def test_a_picture_holds_shapes_and_text_alone(svg: str) -> None:
    with pytest.raises(UnsafeSvgError):
        hardened(svg, label="x")


def test_a_name_is_shortened_to_one_line() -> None:
    assert short("a\n b\u202e\x07") == "a b\ufffd"
    assert short("x" * 100).startswith("x" * 32 + "…")
    assert len(short("x" * 100)) == 44


def test_without_a_held_out_judge_the_page_names_what_stands_in(tmp_path: Path) -> None:
    import json

    from training_folder import FORMAT, RUBRIC

    from trainer.evaluation import evaluate_rows
    from trainer.evaluations import append

    folder = make_folder(tmp_path)
    (folder / EVALUATIONS).unlink()
    rows, _ = evaluation(0, 2.0, 3.0)
    found = evaluate_rows(rows, {"format": FORMAT, "rubric": RUBRIC}, [])
    append(folder / EVALUATIONS, found)
    assert json.loads((folder / EVALUATIONS).read_text())["held_out"] is None
    shown = page_of(folder)
    assert "what stands in for a held-out judge" in labels(shown)[1]
    assert "no held-out judge: format of held-out personas stand in" in shown.text
