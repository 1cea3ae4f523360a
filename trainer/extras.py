"""Packages that a training needs and a plain installation lacks, each with its install line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING

from kardiabench.errors import PreflightError

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

INSTALL = "pip install 'kardiabench[train]'"
_EXTRAS = ("train",)


def require(*packages: str) -> None:
    """Raise `PreflightError` for packages of the `train` extra that are missing or too old."""
    missing = [package for package in packages if _installed(package) is None]
    if missing:
        raise PreflightError(f"training needs {' and '.join(missing)}: {INSTALL}")
    for package in packages:
        wanted = _wanted("kardiabench", package, _EXTRAS)
        found = _installed(package)
        if wanted is not None and found is not None and not _fits(found, wanted):
            raise PreflightError(
                f"training needs {package} {wanted}, and {found} is installed: {INSTALL} --upgrade"
            )


def check_vllm_range() -> str:
    """The vLLM version, as the installed TRL supports it.

    Raises `PreflightError` with the install line where vLLM is missing or of another version: its
    interface changes between versions, and so may what it writes.
    """
    wanted = vllm_range()
    line = f"pip install 'vllm{wanted or ''}'"
    found = _installed("vllm")
    if found is None:
        raise PreflightError(
            f"vllm.mode needs vLLM, which is not installed: {line}, or leave it `off`"
        )
    if wanted is not None and not _fits(found, wanted):
        raise PreflightError(
            f"vLLM {found} is installed, and TRL {_installed('trl')} supports {wanted}: {line}, or "
            "leave vllm.mode `off`"
        )
    return found


def vllm_range() -> SpecifierSet | None:
    """The vLLM versions that the installed TRL supports by its own metadata; None: it names none.

    The numbers in its `is_vllm_available` are the same, but only in a warning's text.
    """
    return _wanted("trl", "vllm", ("vllm",))


def check_reports(report_to: Sequence[str]) -> None:
    """Raise `PreflightError` for a tracker in `report_to` that is not installed."""
    missing = [name for name in report_to if _installed(name) is None]
    if missing:
        raise PreflightError(
            f"report_to names {' and '.join(missing)}, not installed here: "
            f"pip install {' '.join(missing)}, or leave it out"
        )


def check_bf16(dtype: str) -> None:
    """Raise `PreflightError` where `dtype` is bfloat16 and the GPU cannot multiply it."""
    import torch

    if dtype != "bfloat16" or not torch.cuda.is_available():  # a processor can, slowly
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise PreflightError(
            f"dtype bfloat16: {torch.cuda.get_device_name()} does not compute in it; "
            "set dtype: float32"
        )


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _fits(found: str, wanted: SpecifierSet) -> bool:
    from packaging.version import Version

    # Without the local part: 0.31.0+cu129 would count as later than 0.31.0.
    return wanted.contains(Version(found).base_version, prereleases=True)


def _wanted(distribution: str, package: str, extras: Sequence[str]) -> SpecifierSet | None:
    """What `distribution` asks of `package`, in itself or in one of its extras."""
    for requirement in _requirements(distribution):
        marker = requirement.marker
        if requirement.name == package and str(requirement.specifier):
            asked = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)
            if asked:
                return requirement.specifier
    return None


def _requirements(distribution: str) -> Iterator[Requirement]:
    from packaging.requirements import Requirement

    try:
        lines = requires(distribution) or ()
    except PackageNotFoundError:  # run from a folder of sources
        return
    yield from map(Requirement, lines)
