"""Documents that cannot drift: what they show is compared with the code.

`python tests/test_docs.py` writes docs/cli.md anew.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import kardiabench
from kardiabench import hookspecs
from kardiabench.cli import cli

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CLI_PAGE = ROOT / "docs" / "cli.md"
JUDGES = ("format", "emotion", "rubric", "panel", "safety", "pairwise", "smoke")


def commands(group: click.Group, path: str = "kardiabench") -> Iterator[tuple[str, click.Command]]:
    yield path, group
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def cli_page() -> str:
    parts = ["# The command line\n\nWhat `--help` prints, for every command.\n"]
    for path, command in commands(cli):
        context = click.Context(
            command,
            info_name=path,
            max_content_width=100,
            terminal_width=100,
            help_option_names=["-h", "--help"],  # as the group hands them down
        )
        parts.append(f"## {path}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def test_cli_page_shows_what_help_prints():
    # in a process of its own: click keeps a command's help option from its first call, and another
    # test of this worker may have called a command outside its group
    printed = subprocess.run(
        [sys.executable, __file__, "--print"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert CLI_PAGE.read_text("utf-8") == printed.stdout, "run: python tests/test_docs.py"


def test_ci_runs_the_readme_test_command():
    command = next(line for line in README.splitlines() if line.endswith("-m pytest"))
    assert command in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()


def test_readme_first_command_is_the_demo():
    first = re.search(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert first is not None
    assert first[1].endswith("kardiabench demo")


@pytest.mark.parametrize("folder", ["kardiabench", "judges", "leaderboard", "trainer"])
def test_readme_file_map_names_every_module(folder):
    file_map = README.split("## File map")[1]
    for path in (ROOT / folder).iterdir():
        name = path.stem
        if path.name.startswith((".", "_")) or name == "py":
            continue
        if folder == "judges" and name not in JUDGES:
            continue  # parts of one of them
        assert re.search(rf"\b{name}\b", file_map), f"{path.name} is not in the file map"


@pytest.mark.parametrize("path", [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"])
def test_links_between_documents_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_readme_judge_runs_as_it_stands(cli):
    example = re.search(r"```python\n# my_judge\.py.*?\n(.*?)```", README, re.DOTALL)
    assert example is not None
    (cli.folder / "my_judge.py").write_text(example[1])
    command = ("run", "--model", "baseline/majority", "--dataset", "sample", "--limit", "1")
    done = cli.fast(*command, "--plugin", "my_judge.py", "--judge", "brief", "--json")
    assert done.rc == 0, done.err
    assert done.json()["judges"]["brief"]["coverage"] == 1.0


def test_every_hook_has_a_docstring_and_a_page():
    page = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    hooks = [name for name in dir(hookspecs) if name.startswith("register_")]
    assert hooks
    for name in hooks:
        assert getattr(hookspecs, name).__doc__
        assert name in page


def test_changelog_citation_and_package_agree_on_the_version():
    assert f"## {kardiabench.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"version: {kardiabench.__version__}" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_every_package_folder_is_named_in_pyproject():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for top in ("kardiabench", "judges", "leaderboard", "trainer")
        for path in (ROOT / top).rglob("*.py")
    }
    assert folders <= set(packages)


if __name__ == "__main__" and "--print" in sys.argv:
    sys.stdout.write(cli_page())
elif __name__ == "__main__":
    CLI_PAGE.write_text(cli_page(), "utf-8")
    sys.stdout.write(f"wrote {CLI_PAGE}\n")
