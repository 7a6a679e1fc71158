"""The page: sections as data, the script that draws them and the plotting library, in one HTML file that needs no network.

Owns the file's form and its safety. Everything that came from a run, a teacher or a config is JSON in a block that no browser
executes, with `<` escaped so that nothing ends it; a content security policy allows the page's own scripts by their hashes
and nothing else: no handler in an attribute, no evaluated text, no request.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compact_ds import __version__
from compact_ds.errors import UserError
from compact_ds.report.charts import THEME, colours
from compact_ds.report.costs import costs
from compact_ds.report.examples import examples
from compact_ds.report.gradients import gradients
from compact_ds.report.kinds import kinds
from compact_ds.report.learning import learning
from compact_ds.report.overview import line, overview
from compact_ds.report.retention import retention
from compact_ds.report.run_folder import Run, open_runs
from compact_ds.report.scoring import Scores, scores_of
from compact_ds.report.settings import settings
from compact_ds.report.teachers import teachers

_PARTS = Path(__file__).resolve().parent / "template"
_SCRIPTS = ("blocks.js", "graph.js", "examples.js", "page.js")
_CHARTS = "charts.js"
_DIGITS = 5


def report(folders: Sequence[Path], output: Path | None, number: int, scores: Sequence[Path]) -> Path:
    """Write the page about the runs and return its path; `report.html` in the first folder when `output` is None.

    `number` questions of every run are scored unless `scores` has a file for each run. Raises UserError.
    """
    runs = open_runs(folders)
    if scores and len(scores) != len(runs):
        raise UserError("--scores", f"{len(scores)} files", f"one for each of {len(runs)} runs", "give it once a run")
    library = _library()
    found = [scores_of(run, number, scores[i] if scores else None) for i, run in enumerate(runs)]
    file = output or folders[0] / "report.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    # A lone surrogate in a text is no UTF-8; inside JSON its escape is the same character.
    file.write_bytes(page(runs, found, library).encode("utf-8", "backslashreplace"))
    return file


def page(runs: Sequence[Run], scores: Sequence[Scores], library: str) -> str:
    """The whole page as text, with `library` the source of the plotting library."""
    seen = {teacher for run in runs for teacher in run.teachers}
    seen |= {r.teacher for s in scores for one in s.examples for r in one.example.rationales}
    colour = colours(sorted(seen))
    sections = [
        overview(runs), learning(runs), teachers(runs, colour), kinds(runs, scores, colour), examples(runs, scores),
        gradients(runs, colour), retention(runs, colour), costs(runs), settings(runs),
    ]  # fmt: skip
    title = ", ".join(run.name for run in runs)
    data = {
        "title": title,
        "lines": [{"run": run.name, "text": line(run)} for run in runs],
        "sections": [section.data() for section in sections if section.blocks or section.note],
        "colours": colour,
        "theme": THEME,
        "version": __version__,
    }
    # The library comes after what shows text, which so need not wait until it is read.
    scripts = [*map(_part, _SCRIPTS), library.replace("</script", "<\\/script"), _part(_CHARTS)]
    policy = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    filled = {
        "TITLE": html.escape(title),
        "POLICY": policy,
        "STYLE": _part("page.css"),
        "DATA": embedded(data),
        "SCRIPTS": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    before, *pieces = _part("page.html").split("{{")
    # One pass, so that nothing in what is filled in is filled again.
    return before + "".join(filled[name] + rest for name, _, rest in (piece.partition("}}") for piece in pieces))


def embedded(data: Any) -> str:
    """JSON that can stand inside a script element: no `<`, no number that JSON does not have."""
    shown = json.dumps(_plain(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return shown.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _part(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _library() -> str:
    try:
        from vl_convert import javascript_bundle
    except ModuleNotFoundError:
        remedy = "pip install 'compact-ds[report]'"
        raise UserError("report", "no vl-convert-python", "the package that carries Vega-Lite", remedy) from None
    return str(javascript_bundle("window.vegaEmbed = vegaEmbed;"))
