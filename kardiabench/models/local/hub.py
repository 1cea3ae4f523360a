"""Which commit of a model on the Hugging Face Hub is meant, online or from the cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kardiabench.errors import PreflightError

_SECONDS = 20.0


class Commit(NamedTuple):
    """One state of a Hub repository: the commit's hash and the files that there are.

    Without a network those are the files in the cache.
    """

    sha: str
    files: frozenset[str]


def commit_of(name: str, revision: str | None) -> Commit:
    """The commit that `revision` (a branch, tag or commit; None: the default branch) means now.

    Offline (`HF_HUB_OFFLINE`), and where the Hub cannot be reached, it is what the cache holds.
    Raises `PreflightError` when the model is unknown, closed to the user, or nowhere to be had.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.errors import HFValidationError

    try:
        hf_hub_url(name, "config.json")  # checks the name, asks nobody
    except HFValidationError:
        raise PreflightError(
            f"{name!r} is neither a folder here nor a name on the Hugging Face Hub: give a path "
            "that exists, or OWNER/NAME"
        ) from None
    if constants.HF_HUB_OFFLINE:
        return _cached(name, revision) or _nowhere(name, revision, "HF_HUB_OFFLINE is set")
    return _online(name, revision)


def read_json(name: str, revision: str | None, commit: str, file: str) -> Mapping[str, Any]:
    """A JSON object of the model at `commit`, from the cache or the Hub. Raises `PreflightError`.

    It is asked for by `revision`, so that the cache notes which commit that is, for later runs
    without a network; who asks for a commit leaves no such note.
    """
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(name, file, revision=revision))
        if path.parent.name != commit:  # the revision has just moved on
            path = Path(hf_hub_download(name, file, revision=commit))
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise problem(name, commit, error) from error
    return value if isinstance(value, dict) else {}


def problem(name: str, revision: str | None, error: BaseException) -> PreflightError:
    """One sentence for what the Hub or the network refused."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name}"
    at = f" at revision {revision!r}" if revision else ""
    if isinstance(error, errors.GatedRepoError):
        text = f"{name} is gated: ask for access at {page}, then log in with `hf auth login`"
    elif isinstance(error, errors.RevisionNotFoundError):
        text = f"{name} has no revision {revision!r}: {page}/tree/main lists branches and tags"
    elif isinstance(error, errors.RepositoryNotFoundError):
        text = (
            f"the Hub has no model {name}, or it is private: check the name at {page}, log in with "
            "`hf auth login` if it is private, and write a folder as ./FOLDER"
        )
    elif isinstance(error, errors.LocalEntryNotFoundError):
        text = _not_cached(name, revision, "the Hub cannot be reached")
    elif isinstance(error, errors.EntryNotFoundError):
        text = f"{name}{at} lacks a file that is needed ({_brief(error)}): look at {page}/tree/main"
    else:
        text = f"the Hub did not hand out {name}{at} ({_brief(error)}): try again, or see {page}"
    return PreflightError(text)


def _online(name: str, revision: str | None) -> Commit:
    import httpx
    from huggingface_hub import HfApi, errors

    try:
        info = HfApi().model_info(name, revision=revision, timeout=_SECONDS)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise problem(name, revision, error) from error
    except (httpx.HTTPError, OSError) as error:  # no network, or a Hub that has trouble
        return _cached(name, revision) or _nowhere(name, revision, _reason(error))
    files = frozenset(sibling.rfilename for sibling in info.siblings or ())
    return Commit(str(info.sha), files)


def _cached(name: str, revision: str | None) -> Commit | None:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    ref = folder / "refs" / (revision or "main")
    sha = ref.read_text("utf-8").strip() if ref.is_file() else revision
    snapshot = folder / "snapshots" / (sha or "main")
    if sha is None or not snapshot.is_dir():
        return None
    files = (path for path in snapshot.rglob("*") if path.is_file())
    return Commit(sha, frozenset(path.relative_to(snapshot).as_posix() for path in files))


def _nowhere(name: str, revision: str | None, reason: str) -> Commit:
    raise PreflightError(_not_cached(name, revision, reason))


def _not_cached(name: str, revision: str | None, reason: str) -> str:
    at = f" at revision {revision!r}" if revision else ""
    return (
        f"{name}{at} is not in the cache and {reason}: run `hf download {name}` where there is a "
        "network, or give a folder that has the model"
    )


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return f"the Hub has trouble ({_brief(error)})"
    return f"the Hub cannot be reached ({_brief(error)})"


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.:')}" if lines else type(error).__name__
