from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
import sysconfig
from pathlib import Path
from textwrap import dedent, indent

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plugin_dists import HEAD, install, registering, run_kardiabench, run_python, wheel

from kardiabench import hookspecs
from kardiabench.contracts import ChatModel, Judge, JudgeContext
from kardiabench.dialogues import load
from kardiabench.errors import ConfigError, DataError, PluginError, PreflightError
from kardiabench.fingerprints import fingerprint
from kardiabench.listing import describe_judge, list_judges
from kardiabench.models.scripted import ScriptedModel
from kardiabench.plugins import HOOKS, load_registry
from kardiabench.preflight import sample_item
from kardiabench.records import ChatRequest, Item, Message, Reply
from kardiabench.registry import Registry, parse_spec
from kardiabench.scoring import Scorer

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "judge-plugin"
CONTEXT = JudgeContext(open_model=None)  # type: ignore[arg-type] - judges here ask no model
OFFLINE_RUN = ("run", "--model", "baseline/majority", "--dataset", "sample", "--no-rubric")
_numbers = itertools.count()

#: name -> (source, entry point or None, kind of problem, what its sentence says)
BROKEN = {
    "broken-import": ("import no_such_module", None, "broken", "No module named 'no_such_module'"),
    "broken-syntax": ("def f(:", None, "broken", "SyntaxError: "),
    "broken-exit": ("raise SystemExit(3)", None, "broken", "SystemExit: 3 (broken_exit.py, line 1"),
    "broken-entry": ("", "x = broken_entry:nothing_here", "broken", "no attribute 'nothing_here'"),
    "broken-hook": (
        HEAD + "@hookimpl\ndef register_judges(register): register('half', build); [][1]",
        None,
        "broken",
        "its register_judges raised IndexError: list index out of range (broken_hook.py, line",
    ),
    "broken-signature": (
        HEAD + "@hookimpl\ndef register_judges(registry): registry('x', build)",
        None,
        "broken",
        "one argument, named register, which this does not take: register_judges(registry)",
    ),
    "broken-name": (HEAD + registering("a:b"), None, "broken", "'a:b' cannot name a judge"),
    "broken-factory": (
        HEAD + registering("unmade", "None"),
        None,
        "broken",
        "the factory of 'unmade' is neither callable nor 'module:attribute'",
    ),
    "misspelt-one": (
        HEAD + registering("a").replace("register_judges", "register_judge"),
        None,
        "misspelt hook",
        "there is no hook 'register_judge'; did you mean 'register_judges'?",
    ),
    "misspelt-two": (
        HEAD + registering("a").replace("register_judges", "registr_models"),
        None,
        "misspelt hook",
        "there is no hook 'registr_models'; did you mean 'register_models'?",
    ),
    "misspelt-bare": (
        "def register_dataset(register): pass",
        None,
        "misspelt hook",
        "there is no hook 'register_dataset'; did you mean 'register_datasets'?",
    ),
    "unmarked": (
        "def register_judges(register): pass",
        None,
        "not a plugin",
        "its register_judges is not marked: write @hookimpl",
    ),
    "idle": (
        HEAD + "@hookimpl\ndef register_judges(register): pass",
        None,
        "not a plugin",
        "its hooks register nothing",
    ),
    "stranger": ("VALUE = 5", None, "not a plugin", "this module implements none of register_"),
    "number": ("VALUE = 5", "n = number:VALUE", "not a plugin", "this int implements none of"),
    "future": (
        HEAD + "KARDIABENCH_API = 2\n" + registering("later"),
        None,
        "incompatible",
        "it is written for plugin API 2, and this kardiabench has 1; update kardiabench",
    ),
    "past": (
        HEAD + "KARDIABENCH_API = 0\n" + registering("earlier"),
        None,
        "incompatible",
        "plugin API 0, and this kardiabench has 1; update the plugin",
    ),
    "usurper": (
        HEAD + registering("format"),
        None,
        "duplicate",
        "its judge 'format' is left out, since that name is taken (built in)",
    ),
    "second-nice": (
        HEAD + registering("nice"),
        None,
        "duplicate",
        "its judge 'nice' is left out, since that name is taken (first-nice 1.0)",
    ),
}
SOUND = {"first-nice": (HEAD + "KARDIABENCH_API = 1\n" + registering("nice"), None)}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed distributions that this process sees."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def plug(tmp_path):
    """Writes a plugin file whose source begins with `HEAD`; gives its path."""

    def write(*sources: str, name: str | None = None) -> str:
        path = tmp_path / (name or f"plug{next(_numbers)}.py")
        path.write_text(HEAD + "".join(map(dedent, sources)), "utf-8")
        return str(path)

    return write


@pytest.fixture
def make(plug):
    """A judge out of a plugin file: `source` is the body of a subclass of `Judge`."""

    def made(source: str, spec: str = "mine") -> Judge:
        body = "\nclass Mine(Judge):\n" + indent(dedent(source), "    ")
        path = plug(body + "\n" + registering("mine", "lambda options, context: Mine()"))
        return load_registry([path]).make_judge(spec, CONTEXT)

    return made


def problems_by_plugin(registry: Registry) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in registry.problems:
        found.setdefault(problem.plugin, []).append(str(problem))
    return found


def verdicts_of(judge: Judge, n: int = 3) -> list:
    turn = sample_item().turn
    items = [Item(turn, Reply(turn.id, f"reply {i}")) for i in range(n)]
    scorer = Scorer([judge], weights={judge.name: 1.0})
    return asyncio.run(scorer.verdicts(judge, items))


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# --- the worked example -------------------------------------------------------------------------


@pytest.fixture
def fresh_venv(tmp_path):
    """The Python of a new virtual environment that sees what is installed here, but by itself."""
    folder = tmp_path / "venv"
    assert run_python("-m", "venv", "--without-pip", str(folder), cwd=tmp_path).returncode == 0
    packages = next((folder / "lib").glob("python*/site-packages"))
    here = sysconfig.get_path("purelib")
    # `addsitedir`, so that an editable install of kardiabench is seen too.
    (packages / "here.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    return str(folder / "bin" / "python")


def test_worked_example_installs_into_a_fresh_venv_and_is_listed_run_and_recorded(
    fresh_venv, tmp_path
):
    source = tmp_path / "judge-plugin"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    flags = ("install", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    installed = run_python("-m", "pip", "--python", fresh_venv, *flags, str(source), cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr

    listed = run_kardiabench("judges", "--json", cwd=tmp_path, python=fresh_venv)
    rows = {row["name"]: row for row in json.loads(listed.stdout)["judges"]}
    assert rows["brevity"]["from"] == "kardiabench-brevity 0.1.0"
    assert rows["brevity"]["dimensions"] == ["brevity"]

    ran = run_kardiabench(
        *OFFLINE_RUN, "--judge", "brevity:words=25", "--out", "out", "--json",
        cwd=tmp_path, python=fresh_venv,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["judges"]["brevity"]["coverage"] == 1.0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    recorded = manifest["protocol"]["scorer"]["judges"]["brevity"]
    assert recorded["identity"] == {"judge": "brevity", "version": "1", "words": 25}
    verdicts = [
        line["verdict"]
        for line in read_lines(tmp_path / "out" / "verdicts.jsonl")
        if line["verdict"]["judge"] == "brevity"
    ]
    assert len(verdicts) == manifest["protocol"]["dataset"]["turns"]
    assert {verdict["fingerprint"] for verdict in verdicts} == {recorded["fingerprint"]}
    assert all(verdict["scores"]["brevity"] is not None for verdict in verdicts)


def test_worked_example_passes_its_own_tests(tmp_path):
    source = tmp_path / "judge-plugin"
    shutil.copytree(EXAMPLE, source)
    tested = run_python(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", site=source / "src", cwd=source
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_single_file_example_runs(tmp_path):
    file = str(ROOT / "examples" / "judge_file.py")
    arguments = ("--limit", "2", "--judge", "question", "--plugin", file, "--out", "out", "--json")
    ran = run_kardiabench(*OFFLINE_RUN, *arguments, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["judges"]["question"]["coverage"] == 1.0


# --- broken plugins -----------------------------------------------------------------------------


def test_broken_plugins_installed_with_pip_are_told_apart_and_survived(tmp_path):
    wheels, target = tmp_path / "wheels", tmp_path / "target"
    wheels.mkdir()
    sources = {name: case[:2] for name, case in BROKEN.items()} | SOUND
    paths = [str(wheel(wheels, name, *source)) for name, source in sources.items()]
    flags = ("install", "-q", "--no-deps", "--no-index", "--no-compile", "--target", str(target))
    installed = run_python("-m", "pip", *flags, *paths, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr

    listed = run_kardiabench("judges", "--json", site=target, cwd=tmp_path)
    answer = json.loads(listed.stdout)
    assert {"nice", "format", "rubric"} <= {row["name"] for row in answer["judges"]}
    assert len(answer["problems"]) == len(BROKEN)
    assert len({problem.split("): ", 1)[1] for problem in answer["problems"]}) == len(BROKEN)

    judged = ("--limit", "2", "--judge", "nice", "--out", "out", "--quiet")
    ran = run_kardiabench(*OFFLINE_RUN, *judged, site=target, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("warning: plugin ") == len(BROKEN)

    asked = run_kardiabench(*OFFLINE_RUN, "--judge", "half", site=target, cwd=tmp_path)
    assert asked.returncode == 2
    sentence = asked.stderr.splitlines()[-1]
    assert sentence.startswith("kardiabench: judge 'half' is not registered; ")
    assert "plugin 'broken-hook 1.0' (broken): its register_judges raised IndexError" in sentence


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plugin_gets_its_own_sentence_and_the_others_go_on(name, site):
    source, entry, kind, says = BROKEN[name]
    own = f"{name}-{next(_numbers)}"  # modules stay in memory between tests
    module, own_module = name.replace("-", "_"), own.replace("-", "_")
    install(site, own, source, (entry or f"{name} = {module}").replace(module, own_module))
    install(site, "first-nice", SOUND["first-nice"][0])
    registry = load_registry()
    (problem,) = registry.problems
    assert (problem.plugin, problem.kind) == (f"{own} 1.0", kind)
    assert says.replace(module, own_module) in problem.message
    assert "\n" not in problem.message
    assert {"nice", "format", "emotion", "rubric", "smoke"} <= set(registry.judges)
    assert "half" not in registry.judges, "a hook that raises registers nothing"
    assert registry.make_judge("nice", CONTEXT).name == "nice"


def test_duplicate_leaves_the_rest_of_its_plugin_alone(site):
    source = HEAD + registering("smoke") + "    register('also', build)\n"
    install(site, "also-dist", source)
    registry = load_registry()
    assert registry.judges["smoke"].origin == "built in"
    assert registry.judges["also"].origin == "also-dist 1.0"


def test_two_entry_points_of_one_distribution_are_two_plugins(site):
    (site / "pair_b.py").write_text(HEAD + registering("pair-b"), "utf-8")
    install(site, "pair", HEAD + registering("pair-a"), "a = pair\nb = pair_b\nagain = pair")
    registry = load_registry()
    assert registry.problems == []
    assert {"pair-a", "pair-b"} <= set(registry.judges)


def test_damaged_metadata_of_one_distribution_does_not_hide_the_others(site):
    install(site, "first-nice", SOUND["first-nice"][0])
    install(site, "damaged", "", "this line is no entry point")
    registry = load_registry()
    (problem,) = registry.problems
    assert (problem.plugin, problem.kind) == ("damaged 1.0", "broken")
    assert "nice" in registry.judges


def test_a_judge_that_nobody_registered_names_what_was_left_out(site):
    install(site, "absent-minded", "import nowhere_at_all")
    registry = load_registry()
    left_out = r"left out while loading: plugin 'absent-minded 1.0' \(broken\): ModuleNotFound"
    with pytest.raises(PluginError, match=f"judge 'brave' is not registered; .*{left_out}"):
        registry.make_judge("brave", CONTEXT)
    with pytest.raises(PluginError, match=f"dataset 'theirs/set' is neither.*{left_out}"):
        registry.open_dataset("theirs/set")
    model = registry.open_model("theirmodels/one")
    with pytest.raises(PluginError, match=f"theirmodels.*{left_out}"):
        asyncio.run(model.preflight())


def test_dotted_name_that_cannot_be_imported_names_its_plugin(site):
    install(site, "lazy-broken", HEAD + registering("lazy", "'lazy_nowhere:build'"))
    registry = load_registry()
    with pytest.raises(PluginError, match=r"judge 'lazy' of plugin 'lazy-broken 1.0' cannot be"):
        registry.make_judge("lazy", CONTEXT)
    (row,) = [row for row in list_judges(registry) if row["name"] == "lazy"]
    assert row["fingerprint"] is None
    assert "No module named 'lazy_nowhere'" in row["problem"]


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda r: r.make_judge("rubrik", CONTEXT), "judge 'rubrik' .*did you mean 'rubric'"),
        (lambda r: r.open_dataset("sampel"), "dataset 'sampel' .*did you mean 'sample'"),
        (lambda r: r.open_model("baseline/majorty"), "did you mean 'majority'"),
        (lambda r: r.open_model("baseline"), "'baseline' is a prefix only; write baseline/NAME"),
    ],
)
def test_unknown_name_gets_the_nearest_known_one(ask, says):
    with pytest.raises(PluginError, match=says):
        ask(load_registry())


def test_model_prefix_that_is_nearly_one_of_ours_is_told():
    model = load_registry().open_model("basline/tfidf")
    assert model.name == "basline/tfidf"
    with pytest.raises(PluginError, match="or did you mean 'baseline/tfidf'"):
        asyncio.run(model.preflight())


@given(
    st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True),
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
        st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"])).map(str.strip),
        max_size=4,
    ),
)
def test_spec_gives_back_the_options_it_was_written_with(name, options):
    spec = name + (":" if options else "") + ",".join(f"{k}={v}" for k, v in options.items())
    assert parse_spec(spec) == (name, options)


@given(st.text())
def test_any_text_is_a_spec_or_a_sentence(text):
    try:
        name, options = parse_spec(text)
    except ConfigError as error:
        assert "judge" in str(error)
    else:
        assert name == text.partition(":")[0].strip()
        assert all(options)


def test_option_given_twice_is_refused():
    with pytest.raises(ConfigError, match="has the option 'words' twice"):
        parse_spec("brevity:words=1,words=2")


# --- a judge that breaks the contract -----------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("dimensions = ()", "its dimensions are not a tuple of at least one Dimension"),
        ("dimensions = ('niceness',)", "its dimension 'niceness' is no kardiabench.records.Dim"),
        ("identity = None", "its identity is a NoneType, not a mapping"),
        ("identity = {'when': object()}", "its identity is not JSON"),
        ("identity = {'share': float('nan')}", "its identity is not JSON"),
        ("judge = None", "its judge is not written as `async def judge"),
        ("def judge(self, items): return []", "its judge is not written as `async def judge"),
        ("def __init__(self): {}['key']", "cannot be made: KeyError: 'key' .plug"),
        ("def __init__(self): raise SystemExit(1)", "cannot be made: SystemExit: 1"),
    ],
)
def test_judge_that_breaks_the_contract_is_refused_with_a_sentence(make, source, says):
    with pytest.raises(PluginError, match=r"judge 'mine' of plugin '.*plug\d+.py'.*") as caught:
        make(source)
    assert re.search(says, str(caught.value))


def test_judge_that_lacks_members_is_told_which(plug):
    path = plug(registering("mine", "lambda options, context: object()"))
    lacks = "it has no name, dimensions, identity, judge and so is no kardiabench.contracts.Judge"
    with pytest.raises(PluginError, match=lacks):
        load_registry([path]).make_judge("mine", CONTEXT)


def test_options_that_a_judge_refuses_reach_the_user_as_they_are(plug):
    path = plug(
        """
        from kardiabench.errors import ConfigError
        def refuse(options, context):
            raise ConfigError("judge 'mine' has no option 'colour'")
        """,
        registering("mine", "refuse"),
    )
    with pytest.raises(ConfigError, match=r"^judge 'mine' has no option 'colour'$"):
        load_registry([path]).make_judge("mine:colour=red", CONTEXT)


def test_judge_that_raises_for_one_item_fails_on_that_item_only(make):
    judge = make(
        """
        async def judge(self, items):
            if any(item.reply.text == "reply 1" for item in items):
                raise RuntimeError("cannot read this one")
            return [self.verdict(item) for item in items]
        """
    )
    verdicts = verdicts_of(judge)
    assert [verdict.status for verdict in verdicts] == ["ok", "error", "ok"]
    assert verdicts[1].scores == {"niceness": None}
    assert "cannot read this one" in verdicts[1].evidence["judge"]


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("[None for item in items]", "judge() gave a NoneType, not a Verdict"),
        ("[0.5 for item in items]", "judge() gave a float, not a Verdict"),
        ("None", "judge() gave a NoneType instead of a list for 1 items"),
        ("[]", "judge() gave 0 answers for 1 items"),
        ("[Verdict('other/1', 'm', '', {'niceness': 1.0})]", "gave a verdict on other/1"),
    ],
)
def test_what_is_no_verdict_on_the_item_becomes_a_failed_one(make, returned, says):
    judge = make(f"async def judge(self, items):\n    return {returned}")
    (verdict,) = verdicts_of(judge, 1)
    assert (verdict.status, verdict.scores) == ("error", {"niceness": None})
    assert says in verdict.evidence["judge"]


# --- names of judges: `as` ----------------------------------------------------------------------

LABELLED = {
    "class attribute": "pass",
    "property": "name = property(lambda self: 'fixed')",
    "slots": "__slots__ = ()",
    "frozen": "def __setattr__(self, name, value): raise AttributeError(name)",
}


@pytest.mark.parametrize("how", LABELLED)
def test_label_renames_a_judge_however_it_is_written(make, how):
    judge = make(LABELLED[how], "mine:as=other")
    assert judge.name == "other"
    (verdict,) = verdicts_of(judge, 1)
    assert (verdict.judge, verdict.status) == ("other", "ok")


def test_label_renames_a_frozen_dataclass_of_a_plugin_file(plug):
    path = plug(
        """
        from dataclasses import dataclass
        @dataclass(frozen=True, slots=True)
        class Frozen:
            name: "str" = "frozen"
            identity: "dict" = None
            dimensions: "tuple" = Judge.dimensions
            judge = Judge.judge
            verdict = Judge.verdict
        def frozen(options, context):
            return Frozen(identity={"judge": "frozen"})
        """,
        registering("frozen", "frozen"),
    )
    judge = load_registry([path]).make_judge("frozen:as=ice", CONTEXT)
    assert verdicts_of(judge, 1)[0].judge == "ice"


def test_label_of_a_shared_judge_renames_only_the_one_that_was_asked_for(plug):
    path = plug("one = Judge()\n" + registering("mine", "lambda options, context: one"))
    registry = load_registry([path])
    first, second = (registry.make_judge(f"mine:as={label}", CONTEXT) for label in "ab")
    assert (first.name, second.name) == ("a", "b")
    assert fingerprint(first.identity) == fingerprint(second.identity)


def test_judge_goes_by_its_registered_name_whatever_it_calls_itself(make):
    assert make("name = 'Something Else'").name == "mine"


def test_label_renames_a_built_in_judge_too():
    judge = load_registry().make_judge("smoke:as=other", CONTEXT)
    assert judge.name == "other"
    assert judge.smoke_test
    assert verdicts_of(judge, 1)[0].judge == "other"


def test_label_that_cannot_be_a_name_is_refused():
    with pytest.raises(ConfigError, match="'a b' cannot name a judge"):
        load_registry().make_judge("smoke:as=a b", CONTEXT)


def test_optional_members_of_a_judge_reach_the_harness(make):
    judge = make("batch_size = 8\ncacheable = False\nsmoke_test = True", "mine:as=other")
    assert (judge.batch_size, judge.cacheable, judge.smoke_test) == (8, False, True)
    assert not hasattr(judge, "messages")


# --- --plugin FILE.py ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nowhere_at_all", "is broken: ModuleNotFoundError: .* line"),
        ("def f(:", r"is broken: SyntaxError: .*plug\d+.py, line"),
        ("raise SystemExit('bye')", "is broken: SystemExit: bye"),
        (registering("smoke"), r"\(duplicate\): its judge 'smoke' is left out"),
        ("KARDIABENCH_API = 9\n" + registering("x"), r"\(incompatible\): it is written for"),
        ("", r"\(not a plugin\): this module implements none of"),
    ],
)
def test_plugin_file_that_cannot_be_used_stops_with_a_sentence(plug, source, says):
    path = plug(source)
    with pytest.raises(PluginError, match=f"^--plugin {re.escape(path)} {says}"):
        load_registry([path])


@pytest.mark.parametrize(
    ("name", "says"),
    [("nowhere.py", "there is no such file"), (".", "no such file"), ("a.txt", "no Python file")],
)
def test_plugin_file_that_is_none_is_told(tmp_path, name, says):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(PluginError, match=f"--plugin .*: .*{says}"):
        load_registry([str(tmp_path / name)])


def test_plugin_file_given_twice_counts_once(plug, monkeypatch, tmp_path):
    path = plug(registering("mine"), name="twice.py")
    monkeypatch.chdir(tmp_path)
    registry = load_registry([path, "twice.py", path])
    assert registry.problems == []
    assert registry.judges["mine"].origin == path


def test_two_plugin_files_of_one_name_are_two_plugins(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plug.py").write_text(HEAD + registering(f"from-{folder}"))
    registry = load_registry([str(tmp_path / folder / "plug.py") for folder in ("a", "b")])
    assert {"from-a", "from-b"} <= set(registry.judges)


def test_missing_plugin_file_is_exit_code_2(tmp_path):
    ran = run_kardiabench("judges", "--plugin", "nowhere.py", cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr == (
        "kardiabench: --plugin nowhere.py: there is no such file; give the path of a .py file\n"
    )


# --- what plugins print -------------------------------------------------------------------------


def test_what_a_plugin_prints_never_reaches_standard_output(plug, tmp_path):
    path = plug(
        """
        print("loud: import")
        class Loud(Judge):
            async def judge(self, items):
                print("loud: judge")
                return await super().judge(items)
        def loud(options, context):
            print("loud: factory")
            return Loud()
        @hookimpl
        def register_judges(register):
            print("loud: hook")
            register("loud", loud)
        """
    )
    listed = run_kardiabench("judges", "--json", "--plugin", path, cwd=tmp_path)
    assert "loud" in {row["name"] for row in json.loads(listed.stdout)["judges"]}
    arguments = ("--limit", "2", "--judge", "loud", "--plugin", path, "--out", "out", "--json")
    ran = run_kardiabench(*OFFLINE_RUN, *arguments, cwd=tmp_path)
    assert json.loads(ran.stdout)["judges"]["loud"]["coverage"] == 1.0
    for step in ("import", "hook", "factory", "judge"):
        assert f"loud: {step}\n" in ran.stderr


# --- prompts ------------------------------------------------------------------------------------


def test_prompt_of_a_plugin_judge_is_shown(make, plug):
    path = plug(
        """
        from kardiabench.records import Message
        class Asking(Judge):
            def messages(self, item):
                return [Message("user", "Is this nice? " + item.turn.id)]
        """,
        registering("mine", "lambda options, context: Asking()"),
    )
    shown = describe_judge(load_registry([path]), "mine")
    assert f"Is this nice? {sample_item().turn.id}" in shown


def test_prompt_that_cannot_be_shown_is_told(plug):
    path = plug("Judge.messages = lambda self, item: item.nothing\n" + registering("mine"))
    with pytest.raises(PluginError, match="judge 'mine' cannot show its prompt: AttributeError"):
        describe_judge(load_registry([path]), "mine")


# --- models and datasets ------------------------------------------------------------------------

MODEL_AND_DATASET = """
import json
from kardiabench.contracts import RawRow, RowSource
from kardiabench.records import Completion
from kardiabench.spans import render_spans

class Echo:
    batch_size = 1
    identity = {"backend": "echo"}

    def __init__(self, name):
        self.name = name

    async def complete(self, requests):
        said = [request.messages[-1].content for request in requests]
        return [Completion(render_spans("U", "R", "sad", words)) for words in said]

    async def preflight(self): ...
    async def aclose(self): ...

ROW = {
    "person": "MBTI: INFJ", "mbti": "INFJ", "emotion": "sad", "situation": "Rain.",
    "messages": [
        {"role": "user", "content": "It rains."},
        {"role": "assistant", "content": render_spans("U", "R", "sad", "Oh no.")},
    ],
}

def rows():
    yield RawRow("memory", 1, ROW)

@hookimpl
def register_models(register):
    register("echo", lambda name, options: Echo(name))

@hookimpl
def register_datasets(register):
    register("rain", lambda name, split, revision: RowSource(rows, {"name": name, "version": 1}))
"""


def test_model_and_dataset_of_a_plugin_are_run_and_recorded(plug, tmp_path):
    path = plug(MODEL_AND_DATASET)
    ran = run_kardiabench(
        "run", "--model", "echo/any", "--dataset", "rain", "--plugin", path, "--no-rubric",
        "--out", "out", "--json", cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    summary = json.loads(ran.stdout)
    assert (summary["model"], summary["turns"]["answered"]) == ("echo/any", 1)
    assert summary["judges"]["emotion"]["dimensions"]["emotion"]["mean"] == 1.0
    (line,) = read_lines(tmp_path / "out" / "replies.jsonl")
    assert "It rains." in line["reply"]["text"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["model"]["identity"] == {"backend": "echo"}
    assert manifest["dataset"]["name"] == "rain"


@pytest.fixture
def make_model(plug):
    def made(source: str) -> ChatModel:
        body = "\nclass Mine(Echo):\n" + indent(dedent(source), "    ")
        hook = "\n@hookimpl\ndef register_models(register):\n"
        register = "    register('mine', lambda name, options: Mine(name))\n"
        path = plug(MODEL_AND_DATASET + body + hook + register)
        return load_registry([path]).open_model("mine/one")

    return made


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("batch_size = 0", "its batch_size is 0, not a whole number from 1"),
        ("identity = []", "its identity is a list, not a mapping"),
        ("def complete(self, requests): ...", "its complete is not written as `async def"),
        ("preflight = None", "its preflight is not written as `async def preflight"),
    ],
)
def test_model_that_breaks_the_contract_is_refused_with_a_sentence(make_model, source, says):
    with pytest.raises(PluginError, match=r"model 'mine' of plugin .* \(mine/one\)") as caught:
        make_model(source)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise KeyError('gone')", "it raised KeyError: 'gone'"),
        ("return []", "it gave 0 answers for 2 requests"),
        ("return None", "it gave a NoneType instead of a list"),
        ("return ['one', 'two']", "it gave a str, not a Completion"),
        ("return [Completion(None)] * 2", "its text or reasoning is no str"),
        ("return [Completion('', status='fine')] * 2", "its status 'fine' or usage is none of"),
    ],
)
def test_what_a_model_does_wrong_becomes_failed_completions(make_model, body, says):
    model = make_model(f"async def complete(self, requests):\n    {body}")
    request = ChatRequest((Message("user", "hello"),))
    completions = asyncio.run(model.complete([request, request]))
    assert [completion.status for completion in completions] == ["error", "error"]
    assert completions[0].detail.startswith("server: the plugin's model: ")
    assert says in completions[0].detail


def test_lone_surrogates_of_a_model_never_reach_the_disk(make_model):
    model = make_model("async def complete(self, requests):\n    return [Completion('a\\ud800')]")
    (completion,) = asyncio.run(model.complete([ChatRequest((Message("user", "hello"),))]))
    assert completion.text == "a\ufffd"


def test_model_whose_preflight_raises_is_a_preflight_error(make_model):
    model = make_model("async def preflight(self): raise OSError('no such device')")
    with pytest.raises(PreflightError, match="cannot answer: OSError: no such device"):
        asyncio.run(model.preflight())


def test_model_that_does_not_close_well_only_warns(make_model, capsys):
    model = make_model("async def aclose(self): raise OSError('stuck')")
    asyncio.run(model.aclose())
    assert "did not close well: OSError: stuck" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("factory", "error", "says"),
    [
        ("None", PluginError, "it is a NoneType, no kardiabench.contracts.RowSource"),
        ("RowSource(rows, {})", PluginError, "its identity has no 'name'"),
        ("RowSource(rows, {'name': {1}})", PluginError, "its identity is not JSON"),
        ("open('/nowhere/at/all')", PluginError, "cannot be made: FileNotFoundError"),
        ("RowSource(lambda: iter([ROW]), {'name': 'd'})", DataError, "row 1 is a dict, not a RawR"),
        ("RowSource(lambda: [][0], {'name': 'd'})", DataError, "broke off after row 0: IndexErr"),
        ("RowSource(torn, {'name': 'd'})", DataError, "broke off after row 1: ValueError: torn"),
    ],
)
def test_dataset_that_breaks_the_contract_is_told(plug, factory, error, says):
    path = plug(
        MODEL_AND_DATASET,
        dedent(
            f"""
            def torn():
                yield from rows()
                raise ValueError("torn")
            @hookimpl
            def register_datasets(register):
                register("mine", lambda name, split, revision: {factory})
            """
        ),
    )
    with pytest.raises(error, match="dataset 'mine' of plugin") as caught:
        load(load_registry([path]).open_dataset("mine"))
    assert says in str(caught.value)


def test_a_plugin_may_bring_a_backend_that_this_version_lacks(plug):
    path = plug(MODEL_AND_DATASET.replace('register("echo"', 'register("tgi"'))
    assert load_registry([path]).open_model("tgi/any").name == "tgi/any"


def test_origins_name_what_plugins_registered(plug):
    path = plug(MODEL_AND_DATASET)
    assert load_registry([path]).origins == {
        "judges": {},
        "models": {"echo": path},
        "datasets": {"rain": path},
    }


# --- the name `judges` --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "source", "says"),
    [
        ("judges/__init__.py", "from_somebody_else = 1", "is another's, not kardiabench's"),
        ("judges.py", "", "is another's, not kardiabench's"),
        ("judges/__init__.py", "import nowhere", "cannot be imported (ModuleNotFoundError"),
    ],
)
def test_foreign_package_called_judges_is_noticed(tmp_path, file, source, says):
    foreign = tmp_path / "foreign" / file
    foreign.parent.mkdir(parents=True)
    foreign.write_text(source)
    ran = run_kardiabench("judges", site=tmp_path / "foreign", cwd=tmp_path)
    assert ran.returncode == 2
    (sentence,) = ran.stderr.splitlines()
    assert sentence.startswith("kardiabench: the package 'judges' at ")
    assert says in sentence
    assert sentence.endswith("install kardiabench into a virtual environment of its own")


# --- documents ----------------------------------------------------------------------------------


def test_every_hook_is_specified_and_documented():
    page = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    for hook in HOOKS:
        assert getattr(hookspecs, hook).__doc__.strip()
        assert f"`{hook}`" in page
    specified = [n for n in vars(hookspecs) if hasattr(vars(hookspecs)[n], "kardiabench_spec")]
    assert sorted(specified) == sorted(HOOKS)


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def page_files(tmp_path):
    """The four examples of docs/plugins.md, each as the file that its first line names."""
    page = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    files = {}
    for block in python_blocks(page):
        name = re.match(r"# (\w+\.py): ", block)[1]
        files[name] = str(tmp_path / name)
        Path(files[name]).write_text(block, "utf-8")
    return files


def test_examples_of_the_plugin_page_run_as_written(page_files, tmp_path):
    assert set(page_files) == {"terse.py", "warmth.py", "parrot.py", "diary.py"}
    plugins = [part for path in page_files.values() for part in ("--plugin", path)]
    script = tmp_path / "script.jsonl"
    script.write_text(json.dumps({"text": '{"warmth": 4}', "repeat": True}))
    ran = run_kardiabench(
        "run", "--model", "parrot/grey", "--model-arg", "emotion=anxious", "--dataset", "diary",
        "--no-rubric", "--judge", "terse:words=20", "--judge", "terse:words=3,as=terser",
        "--judge", f"warmth:model=scripted/{script}", *plugins, "--out", "out", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    judges = json.loads(ran.stdout)["judges"]
    means = {
        (judge, name): estimate["mean"]
        for judge, numbers in judges.items()
        for name, estimate in numbers["dimensions"].items()
    }
    assert means == {
        ("format", "format"): 1.0,
        ("emotion", "emotion"): 1.0,
        ("terse", "terse"): 1.0,
        ("terser", "terse"): 0.0,
        ("warmth", "warmth"): 4.0,
    }


@pytest.mark.parametrize(
    ("answer", "status", "score"),
    [
        ({"text": '{"warmth": 2}'}, "ok", 2.0),
        ({"text": "quite warm"}, "unparsed", None),
        ({"text": '{"warmth": 9}'}, "error", None),
        ({"status": "refused", "detail": "refusal"}, "refused", None),
        ({"status": "error", "detail": "server: down"}, "error", None),
    ],
)
def test_the_page_s_judge_that_asks_a_model_never_makes_up_a_score(
    page_files, answer, status, score
):
    scripted = ScriptedModel([answer])
    context = JudgeContext(open_model=lambda name, **options: scripted)
    judge = load_registry([page_files["warmth.py"]]).make_judge("warmth", context)
    scorer = Scorer([judge], weights={"warmth": 1.0})
    (verdict,) = asyncio.run(scorer.verdicts(judge, [sample_item()]))
    assert (verdict.status, verdict.scores) == (status, {"warmth": score})
    assert verdict.usage.calls == 1
