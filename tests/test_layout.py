"""Imports point one way, and nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOOR = frozenset(
    f"kardiabench.{name}"
    for name in ("records", "contracts", "errors", "spans", "emotions", "fingerprints")
)
HEAVY = frozenset(
    [
        "altair",
        "datasets",
        "jinja2",
        "litellm",
        "pandas",
        "pyarrow",
        "pydantic",
        "rich",
        "scipy",
        "sklearn",
        "statsmodels",
        "torch",
        "transformers",
    ]
)
#: What puts a run together or drives it: nothing below may know of it.
TOP = frozenset(
    f"kardiabench.{name}"
    for name in ("session", "preflight", "runner", "execution", "progress", "estimate", "listing")
)


@cache
def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in ("kardiabench", "judges", "leaderboard", "trainer")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def in_package(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def imported_names(path: Path) -> Iterator[str]:
    """All that a file imports, anywhere in it, and what a `from` may mean as a module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def ours(module: str) -> frozenset[str]:
    """The modules of ours that `module` imports, late imports included, `__init__`s aside."""
    names = set(imported_names(modules()[module])) & modules().keys()
    return frozenset(names - {"kardiabench"})


def in_layer(*packages: str) -> list[str]:
    return [name for name in modules() if any(in_package(name, package) for package in packages)]


@pytest.mark.parametrize("module", sorted(FLOOR))
def test_floor_imports_only_the_floor(module):
    assert ours(module) <= FLOOR


@pytest.mark.parametrize("module", in_layer("judges"))
def test_judges_import_only_the_floor_and_judges(module):
    assert ours(module) <= FLOOR | set(in_layer("judges"))


@pytest.mark.parametrize("module", in_layer("kardiabench.models"))
def test_models_know_nothing_of_scoring_judges_or_what_drives_a_run(module):
    above = TOP | {"kardiabench.scoring", *in_layer("judges", "kardiabench.cli")}
    assert not ours(module) & above


MIDDLE = [
    "scoring",
    "store",
    "stats",
    "rows",
    "sources",
    "sampling",
    "dialogues",
    "hookspecs",
    "plugins",
    "guards",
    "redaction",
    "cache",
    "prompts",
]


@pytest.mark.parametrize("module", MIDDLE)
def test_middle_knows_nothing_of_what_drives_a_run(module):
    assert not ours(f"kardiabench.{module}") & (TOP | set(in_layer("kardiabench.cli")))


def test_nobody_imports_the_command_line():
    importers = {name for name in modules() if ours(name) & set(in_layer("kardiabench.cli"))}
    starters = {"kardiabench.__main__", "leaderboard.__main__", "trainer.__main__"}
    assert importers <= {*in_layer("kardiabench.cli"), *starters}


def test_only_the_command_line_knows_of_the_leaderboard():
    importers = {name for name in modules() if ours(name) & set(in_layer("leaderboard"))}
    assert importers <= {*in_layer("leaderboard"), *in_layer("kardiabench.cli")}


def test_nobody_imports_judges_but_through_plugins():
    importers = {name for name in modules() if ours(name) & set(in_layer("judges"))}
    assert importers <= set(in_layer("judges"))


def test_only_plugins_imports_by_name():
    users = [
        name
        for name, path in modules().items()
        if {"importlib.import_module", "importlib.util", "__import__"} & set(dynamic_uses(path))
    ]
    # The registry imports what was registered by dotted name, when it is asked for; the vLLM
    # backend only looks whether vLLM is there, since importing it takes many seconds.
    looking = ["kardiabench.models.local.vllm_engine"]
    assert users == [*looking, "kardiabench.plugins", "kardiabench.registry"]


def dynamic_uses(path: Path) -> Iterator[str]:
    yield from imported_names(path)
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute | ast.Name):
            yield ast.unparse(node)


def test_imports_have_no_cycle():
    """At import time: a late import may point back."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"cycle: {' -> '.join((*path, module))}"
        if module not in done:
            for other in eager(module):
                visit(other, (*path, module))
            done.add(module)

    for module in modules():
        visit(module, ())


@cache
def eager(module: str) -> frozenset[str]:
    """The modules of ours that `module` imports as it is imported itself, its parents aside."""
    names: set[str] = set()
    for node in ast.parse(modules()[module].read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module), *(f"{node.module}.{a.name}" for a in node.names)}
    found = names & modules().keys()
    return frozenset(name for name in found if not in_package(module, name))


def heavy_after(code: str) -> set[str]:
    """The heavy modules that a new Python has after `code`."""
    tail = f"\nimport sys, json\nprint(json.dumps(sorted({set(HEAVY)!r} & set(sys.modules))))"
    ran = subprocess.run(
        [sys.executable, "-c", code + tail],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stdout.splitlines()[-1]))


def call(*arguments: str) -> str:
    """Code that runs the command line and goes on."""
    return (
        "import sys\nfrom kardiabench.cli import main\n"
        f"sys.argv = ['kardiabench', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import kardiabench",
        "import kardiabench.cli",
        "import kardiabench.plugins; kardiabench.plugins.load_registry()",
        "import judges, judges.format, judges.emotion, judges.smoke",
        call("--help"),
        call("run", "--help"),
        call("leaderboard", "build", "--help"),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(code):
    assert heavy_after(code) == set()


def test_rubric_judge_brings_its_template_and_its_schema_and_nothing_else():
    assert heavy_after("import judges.rubric") <= {"jinja2", "pydantic"}


@pytest.mark.parametrize(
    "arguments", [("judges",), ("judges", "--json"), ("judges", "show", "rubric")]
)
def test_looking_at_judges_needs_no_client_of_models_and_no_data_frame(arguments):
    assert heavy_after(call(*arguments)) <= {"jinja2", "pydantic", "rich"}


def test_every_package_is_marked_as_ours_where_others_have_its_name():
    import judges
    import leaderboard

    assert judges.KARDIABENCH_PACKAGE is True
    assert leaderboard.KARDIABENCH_PACKAGE is True
