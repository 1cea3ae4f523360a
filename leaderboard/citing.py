"""How the benchmark and a leaderboard are cited: BibTeX."""

from __future__ import annotations

from leaderboard.views import SiteView

_PAPER = """@article{yuan2025kardiar1,
  title   = {Kardia-R1: Unleashing {LLM}s to Reason toward Understanding and Empathy for
             Emotional Support via Rubric-as-Judge Reinforcement Learning},
  author  = {Yuan, Jiahao and Cui, Zhiqing and Wang, Hanqing and Gao, Yuansheng and
             Zhou, Yucheng and Naseem, Usman},
  journal = {arXiv preprint arXiv:2512.01282},
  year    = {2025},
  note    = {WWW 2026}
}
"""


def bibtex(site: SiteView) -> str:
    """The paper's entry and one for the program that made the figures."""
    year = site.updated[:4] or "2026"
    protocols = ", ".join(board.protocol for board in site.boards) or "none"
    address = f"  howpublished = {{\\url{{{_plain(site.url)}}}}},\n" if site.url else ""
    return (
        f"{_PAPER}\n@misc{{kardiabench-leaderboard,\n"
        f"  title  = {{{_plain(site.title)}}},\n"
        f"  author = {{{{The KardiaBench harness authors}}}},\n"
        f"{address}"
        f"  year   = {{{year}}},\n"
        f"  note   = {{kardiabench {site.version}; updated {site.updated or 'never'};\n"
        f"            protocols {protocols}}}\n}}\n"
    )


def _plain(text: str | None) -> str:
    """Text without what BibTeX reads as its own."""
    return "".join(c for c in text or "" if c.isalnum() or c in " .,:;/-_'()?=&~+")
