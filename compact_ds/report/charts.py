"""Vega-Lite charts of the report: lines over steps, heat maps and bars, and the theme that they share.

Owns the drawing's form. Rows come ready; a teacher's name is a value in them or in a scale's domain, never in an expression.
Text and rules are in `currentColor`, so one picture serves the light page, the dark one and paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Spec = dict[str, Any]
Row = dict[str, Any]

POINTS = 120
"""Points of a line: longer runs are shown as means over consecutive steps."""

_PIXELS_A_TICK = 55
_PIXELS_A_CELL = 150
_WIDEST_BARS = 640

_PALETTE = (
    "#3b7dd8", "#e8842c", "#2fa36b", "#c2519c", "#8b6ccf", "#c9a227", "#2aa5b8", "#d9534f", "#7d8a2e", "#8d6e63",
)  # fmt: skip

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

THEME: Spec = {
    "background": None,
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor", "titleColor": "currentColor", "gridColor": "currentColor", "gridOpacity": 0.12,
        "domainColor": "currentColor", "domainOpacity": 0.4, "tickColor": "currentColor", "tickOpacity": 0.4,
        "titleFontWeight": "normal", "labelFontSize": 11, "titleFontSize": 11,
    },
    "legend": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12, "labelLimit": 220},
    "text": {"color": "currentColor", "font": _FONT},
    "rule": {"color": "currentColor"},
}  # fmt: skip


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for every name, in order; they come again after ten."""
    return {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(names)}


def extended(colour: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """`colour` with colours for the names that it lacks, from where it ends."""
    return dict(colour) | {
        name: _PALETTE[(len(colour) + i) % len(_PALETTE)] for i, name in enumerate(n for n in names if n not in colour)
    }


def binned(series: str, values: Sequence[tuple[int, float | None]]) -> list[Row]:
    """A series of (step, value) as at most POINTS rows: the mean over consecutive steps that have a value."""
    if not values:
        return []
    first, last = values[0][0], values[-1][0]
    width = max(1, -(-(last - first + 1) // POINTS))
    bins: dict[int, list[tuple[int, float]]] = {}
    for step, value in values:
        if value is not None:
            bins.setdefault((step - first) // width, []).append((step, value))
    return [
        {"series": series, "step": b[len(b) // 2][0], "value": sum(v for _, v in b) / len(b),
         "steps": str(b[0][0]) if len(b) == 1 else f"{b[0][0]}-{b[-1][0]}"}
        for b in bins.values()
    ]  # fmt: skip


def lines(
    rows: Sequence[Row],
    unit: str,
    colour: Mapping[str, str],
    *,
    height: int = 180,
    level: float | None = None,
    start: int | None = None,
    is_sparse: bool = False,
    domain: tuple[float, float] | None = None,
) -> Spec:
    """Lines over steps in a unit, a colour a series; `level` is a dashed horizontal rule, `start` a vertical one at a step.

    `is_sparse` shows every point. Hovering names the point; the legend isolates a series.
    """
    named = {row["series"] for row in rows}
    shown = [name for name in colour if name in named]
    scale: Spec = {"zero": False, "nice": True} | ({"domain": list(domain)} if domain else {})
    encoding = {
        "x": {
            "field": "step",
            "type": "quantitative",
            "title": "step",
            "axis": {"tickMinStep": 1, "tickCount": {"signal": f"max(2, ceil(width / {_PIXELS_A_TICK}))"}},
            "scale": {"nice": False},
        },
        "y": {"field": "value", "type": "quantitative", "title": None, "scale": scale},
        "color": _colour("series", shown, colour, has_legend=len(shown) > 1),
        "opacity": {"condition": {"param": "shown", "value": 1}, "value": 0.12},
    }
    tooltip = [
        {"field": "series", "type": "nominal"},
        {"field": "steps", "type": "nominal"},
        {"field": "value", "type": "quantitative", "format": ".4~g", "title": unit},
    ]
    point: Spec = {
        "params": [{"name": "shown", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}],
        "mark": {"type": "circle", "size": 45} if is_sparse else {"type": "circle", "size": 90, "opacity": 0},
        "encoding": encoding | {"tooltip": tooltip},
    }
    if not is_sparse:
        del point["encoding"]["opacity"]
    layer: list[Spec] = [{"mark": {"type": "line", "strokeWidth": 1.8}, "encoding": encoding}, point]
    if level is not None:
        layer.append(_rule("y", level))
    if start is not None:
        layer.append(_rule("x", start))
    return _sized({"data": {"values": list(rows)}, "layer": layer}, height)


def heat(
    rows: Sequence[Row],
    y_order: Sequence[str],
    x_order: Sequence[str],
    *,
    domain: tuple[float, float],
    scheme: str,
    tooltip: Sequence[tuple[str, str]],
    x_title: str | None = None,
) -> Spec:
    """Cells at (`y`, `x`) coloured by `value`, with `label` written in; `tooltip` is (field, title)."""
    axis = {"labelLimit": 170, "domain": False, "ticks": False}
    encoding: Spec = {
        "y": {"field": "y", "type": "nominal", **_order(y_order), "title": None, "axis": axis},
        "x": {
            "field": "x", "type": "nominal", **_order(x_order), "title": x_title,
            "axis": axis | {"labelAngle": 0 if len(x_order) < 5 else -35, "orient": "top", "labelLimit": 90},
        },
        "tooltip": [{"field": f, "title": t, **_form(rows, f)} for f, t in tooltip],
    }  # fmt: skip
    low, high = domain
    reverse = scheme == "redblue"
    cells = {
        "mark": {"type": "rect", "stroke": "currentColor", "strokeOpacity": 0.15},
        "encoding": encoding | {"color": {
            "field": "value", "type": "quantitative", "legend": None,
            "scale": {"domain": [low, high], "scheme": scheme} | ({"domainMid": 0} if reverse else {}),
        }},
    }  # fmt: skip
    middle = (low + high) / 2
    pale = f"abs(datum.value) < {0.6 * max(abs(low), abs(high))}" if reverse else f"datum.value < {middle}"
    text = {
        "mark": {"type": "text", "fontSize": 11},
        "encoding": encoding
        | {
            "text": {"field": "label", "type": "nominal"},
            "color": {"condition": {"test": pale, "value": "#111"}, "value": "#fff"},
        },
    }
    spec = {"data": {"values": list(rows)}, "layer": [cells, text]}
    return _sized(spec, 26 * len(y_order), widest=_PIXELS_A_CELL * (1 + len(x_order)))


def _rule(channel: str, value: float) -> Spec:
    """A dashed rule; with the chart's own rows it would be drawn once for each."""
    mark = {"type": "rule", "strokeDash": [4, 4], "opacity": 0.5}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {channel: {"datum": value}}}


def bars(rows: Sequence[Row], y_order: Sequence[str], x_title: str, colour: Mapping[str, str]) -> Spec:
    """Horizontal bars of `value` at `y`, a colour a `series`, several beside one another."""
    shown = [name for name in colour if any(row["series"] == name for row in rows)]
    encoding = {
        "y": {"field": "y", "type": "nominal", **_order(y_order), "title": None, "axis": {"labelLimit": 170}},
        "yOffset": {"field": "series", "type": "nominal", **_order(shown)},
        "x": {"field": "value", "type": "quantitative", "title": None},
        "color": _colour("series", shown, colour, has_legend=len(shown) > 1),
        "tooltip": [
            {"field": "y", "type": "nominal", "title": "of"},
            {"field": "series", "type": "nominal"},
            {"field": "value", "type": "quantitative", "format": ".4~g", "title": x_title},
        ],
    }
    spec = {"data": {"values": list(rows)}, "mark": {"type": "bar"}, "encoding": encoding}
    return _sized(spec, max(60, len(y_order) * (10 + 16 * len(shown))), widest=_WIDEST_BARS)


def _order(names: Sequence[str]) -> Spec:
    """Names in their order. As a list under `sort` they would become an expression, which not every name survives."""
    return {"sort": None, "scale": {"domain": list(names)}}


def _colour(field: str, shown: Sequence[str], colour: Mapping[str, str], *, has_legend: bool) -> Spec:
    legend = {"orient": "top", "title": None, "columns": 3} if has_legend else None
    scale = {"domain": list(shown), "range": [colour[name] for name in shown]}
    return {"field": field, "type": "nominal", "scale": scale, "legend": legend}


def _form(rows: Sequence[Row], field: str) -> Spec:
    is_text = any(isinstance(row.get(field), str) for row in rows)
    return {"type": "nominal"} if is_text else {"type": "quantitative", "format": ".4~g"}


def _sized(spec: Spec, height: int, widest: int | None = None) -> Spec:
    """As wide as its place, up to `widest` pixels, which the page's script reads from `usermeta`."""
    limit: Spec = {} if widest is None else {"usermeta": {"widest": widest}}
    return {"width": "container", "height": height, "autosize": {"type": "fit-x", "contains": "padding"}} | limit | spec
