"""A built site in Chromium: what it shows, and all that it must never do while it is looked at."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, sync_playwright
from site_runs import HOSTILE, MODELS, Made, write_run, write_runs

from kardiabench.fingerprints import digest
from leaderboard.serving import HOST, server
from leaderboard.site import Plan, build_site
from leaderboard.views import BoardView, RunView, SiteView

#: Milliseconds that a condition may take to come true. A busy machine is slow, not wrong.
PATIENCE = 20_000
HEBREW = "שלום"
#: Its name and its replies turn what stands around them, unless that is prevented.
TURNING = Made(
    f"{HEBREW}/\u202eright-to-left",
    3.4,
    0.3,
    seed=12,
    responses=dict.fromkeys(range(133), f"{HEBREW} \u202eevil"),
)
_CSP = (
    "document.addEventListener('securitypolicyviolation', (event) => console.error("
    "`against the policy: ${event.violatedDirective} ${event.blockedURI}`));"
)


def chromium() -> str:
    """The path of an installed Chromium or Chrome; without one the test fails."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.fail("these tests need Chromium: sudo apt-get install chromium", pytrace=False)
    return found


@contextmanager
def browsing() -> Iterator[Browser]:
    """A Chromium without a window."""
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(frozen=True)
class Site:
    """A built site: its folder, the address that it is opened at, and what it was made of."""

    folder: Path
    address: str
    view: SiteView

    def url(self, page: str) -> str:
        return self.address + page

    @property
    def board(self) -> BoardView:
        """The board whose text may be shown."""
        return next(board for board in self.view.boards if board.text)

    @property
    def silent(self) -> BoardView:
        """The board whose text may not be shown."""
        return next(board for board in self.view.boards if not board.text)

    def run(self, name: str) -> RunView:
        """The run on the board with text whose name begins so; of several the best."""
        runs = (*self.board.runs, *self.board.unranked)
        return next(run for run in runs if run.name.startswith(name))

    def data(self, key: str) -> Any:
        """What a data file puts."""
        text = (self.folder / "data" / f"{key}.js").read_text("utf-8")
        found = re.fullmatch(r'kardiabench\.put\("([^"]*)",(.*)\);\n', text, re.DOTALL)
        assert found is not None
        assert found[1] == key
        quoted = re.fullmatch(r"JSON\.parse\('(.*)'\)", found[2], re.DOTALL)
        return json.loads(re.sub(r"\\(['\\])", r"\1", quoted[1]) if quoted else found[2])

    def dialogues(self) -> dict[str, Any]:
        found: dict[str, Any] = self.data(f"{self.board.protocol}/dialogues")
        return found

    def scores(self, run: RunView) -> dict[str, Any]:
        found: dict[str, Any] = self.data(f"runs/{run.slug}/scores")
        return found

    def turns(self, run: RunView, dialogue: str) -> dict[str, Any]:
        """The file that holds a run's turns of a dialogue."""
        index = self.scores(run)["dialogues"]
        shard = index["shards"][index["ids"].index(dialogue)]
        found: dict[str, Any] = self.data(f"runs/{run.slug}/turns-{shard}")
        return found

    def answer(self, run: RunView, dialogue: str, turn: int) -> dict[str, Any]:
        """Spans, evidence and scores of one answer."""
        file = self.turns(run, dialogue)
        at = file["dialogues"].index(dialogue)
        start = sum(file["counts"][:at])
        place = start + file["index"][start : start + file["counts"][at]].index(turn)
        scores = {key: values[place] for key, values in file["scores"].items()}
        return {
            "spans": file["spans"][place],
            "evidence": file["evidence"][place],
            "scores": scores | {"composite": file["composite"][place]},
            "predicted": file["predicted"][place],
        }

    def pages(self) -> set[str]:
        """The addresses of all its pages."""
        return {file.relative_to(self.folder).as_posix() for file in self.folder.rglob("*.html")}


def long_winded() -> Made:
    """Its replies fill several files, and the first is longer than any that is shown whole."""
    replies = {place: "ü" * (10_000_000 if place == 0 else 9_000) for place in range(133)}
    return Made("long/winded", 3.3, 0.3, seed=11, responses=replies)


def make_site(folder: Path) -> Site:
    """Build a site with everything on it, and with a board whose text may not be shown."""
    write_runs(folder / "runs", [*MODELS, long_winded(), TURNING])
    for place, made in enumerate(MODELS[2:5]):
        _on_a_file(write_run(folder / "runs" / f"file-{place}", made, limit=6))
    plan = Plan(cache=folder / "cache", workers=1)
    view = build_site([folder / "runs"], folder / "site", plan)
    return Site(folder / "site", f"{(folder / 'site').as_uri()}/", view)


#: Names that are something else to a careless script, by what they stand for.
JUDGES = {"rubric": "__proto__", "safety": "constructor"}
DIMENSIONS = {
    "relevance": "__proto__",
    "fluency": "constructor",
    "empathy": f"to.String \"'{HOSTILE}",
    "persona_consistency": "name",
}


def renamed_site(folder: Path) -> Site:
    """A site of two runs whose judges and dimensions bear the names above."""
    for place, made in enumerate(MODELS[2:4]):
        _rename(write_run(folder / "runs" / f"run-{place}", replace(made, carded=False), limit=4))
    view = build_site([folder / "runs"], folder / "site", Plan(cache=folder / "cache", workers=1))
    return Site(folder / "site", f"{(folder / 'site').as_uri()}/", view)


def _rename(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text("utf-8"))
    scorer = manifest["protocol"]["scorer"]
    for judge in scorer["judges"].values():
        for dimension in judge["dimensions"]:
            dimension["name"] = DIMENSIONS.get(dimension["name"], dimension["name"])
    for name in ("judges", "weights"):
        scorer[name] = {JUDGES.get(judge, judge): one for judge, one in scorer[name].items()}
    manifest["protocol_id"] = digest(manifest["protocol"])
    (run / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    log = run / "verdicts.jsonl"
    lines = log.read_text("utf-8").splitlines()
    log.write_text("".join(f"{_renamed(line)}\n" for line in lines), "utf-8")


def _renamed(line: str) -> str:
    row = json.loads(line)
    verdict = row["verdict"]
    verdict["judge"] = JUDGES.get(verdict["judge"], verdict["judge"])
    for part in ("scores", "evidence"):
        verdict[part] = {DIMENSIONS.get(key, key): one for key, one in verdict[part].items()}
    return json.dumps(row)


def _on_a_file(run: Path) -> None:
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["dataset"] = {"name": "gated.jsonl", "sha256": "0" * 64}
    path.write_text(json.dumps(manifest))


@contextmanager
def served(site: Site) -> Iterator[Site]:
    """`site` at an address of a local server."""
    serving = server(site.folder, 0)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    try:
        yield replace(site, address=f"http://{HOST}:{serving.server_port}/")
    finally:
        serving.shutdown()
        thread.join()
        serving.server_close()


class Visit:
    """Somebody who looks at a site; `requests` and `wrong` tell what happened meanwhile."""

    def __init__(self, context: BrowserContext, site: Site) -> None:
        self.site = site
        self.requests: list[str] = []
        self.wrong: list[str] = []
        context.set_default_timeout(PATIENCE)
        context.add_init_script(_CSP)
        context.on("request", lambda request: self._asked(request.url))
        context.on("requestfailed", lambda request: self._failed(request.url, request.failure))
        context.on("console", lambda said: self._said(said.type, said.text))
        context.on("weberror", lambda error: self.wrong.append(f"exception: {error.error}"))
        context.on("dialog", self._dialog)
        self.page = context.new_page()

    def open(self, page: str) -> Page:
        """Open a page anew, whatever was open before, and wait until its scripts have filled it."""
        self.page.goto("about:blank")
        self.page.goto(self.site.url(page))
        name = page.partition("#")[0]
        if name == "compare.html":
            self.page.wait_for_selector("#result:visible, #status.note")
        elif name == "browse.html":
            self.page.wait_for_selector("#dialogue:visible, #status.note")
        return self.page

    def data_files(self) -> set[str]:
        """Keys of the data files that were asked for."""
        start = self.site.url("data/")
        return {url[len(start) : -3] for url in self.requests if url.startswith(start)}

    def check(self) -> None:
        """Fails for whatever a page did that it must not."""
        self.page.evaluate("0")  # what was told before this has arrived
        if self.wrong:
            pytest.fail("the page did what it must not:\n" + "\n".join(self.wrong))

    def _asked(self, url: str) -> None:
        self.requests.append(url)
        if not url.startswith(self.site.address):
            self.wrong.append(f"asked for {url}")

    def _failed(self, url: str, why: str | None) -> None:
        if why != "net::ERR_ABORTED":  # the visitor went on before it had come
            self.wrong.append(f"failed: {url}: {why}")

    def _said(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.wrong.append(f"{kind}: {text}")

    def _dialog(self, dialog: Dialog) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@contextmanager
def visiting(browser: Browser, site: Site, **options: Any) -> Iterator[Visit]:
    """A visit in a context of its own, with `options` of the context; checked at its end."""
    context = browser.new_context(**{"reduced_motion": "reduce"} | options)
    try:
        visit = Visit(context, site)
        yield visit
        visit.check()
    finally:
        context.close()


# --- numbers as the scripts print them ------------------------------------------------------------


def number(value: float | None, digits: int) -> str:
    """As JavaScript rounds: halves away from zero, of the exact double."""
    if value is None:
        return "—"
    rounded = Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{rounded:f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float | None, digits: int) -> str:
    return f"+{number(value, digits)}" if value is not None and value > 0 else number(value, digits)


def interval(low: float | None, high: float | None, digits: int) -> str:
    if low is None or high is None:
        return "—"
    return f"{signed(low, digits)} to {signed(high, digits)}"


def probability(value: float | None) -> str:
    if value is None:
        return "—"
    return "< .001" if value < 0.001 else number(value, 3).removeprefix("0")


def cells(page: Page, table: str) -> list[list[str]]:
    """The text of every cell in the body of a table, rows that are hidden left out."""
    script = """rows => rows.filter(row => !row.hidden)
        .map(row => [...row.cells].map(cell => cell.innerText.replace(/\\s+/g, " ").trim()))"""
    found: list[list[str]] = page.locator(f"{table} tbody tr").evaluate_all(script)
    return found


def names(page: Page) -> list[str]:
    """The names of the runs in the ranking, from above; rows that are hidden left out."""
    found: list[str] = page.locator("#table tbody tr:not([hidden]) th bdi").all_text_contents()
    return found


def best_first(runs: Sequence[RunView], key: str) -> list[str]:
    """Names by the mean of a metric, as the table should have them; equals stay as they are."""
    return [run.name for run in sorted(runs, key=lambda run: -(run.figures[key].mean or 0))]
