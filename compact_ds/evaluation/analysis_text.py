"""A comparison before and after as text that fits a terminal of 80 columns.

Owns the form. The figures are `analysis`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def shown(figures: Mapping[str, Any]) -> str:
    """Layers of each source, then its teachers, then the weights."""
    parts = [_source(name, source, figures["top"]) for name, source in figures["sources"].items()]
    return "\n\n".join([*parts, _weights(figures["weights"])])


def _source(name: str, source: Mapping[str, Any], top: int) -> str:
    cut = f", {source['cut']} cut" if source["cut"] else ""
    lines = [f"{name}: {source['questions']} questions, {source['tokens']} tokens{cut}"]
    lines.append(f"  angles in degrees, of the {top} leading directions")
    lines.append("  layer     CKA  1-cosine  mean angle  largest    kept  dimension")
    for number, layer in enumerate(source["layers"]):
        dimensions = f"{_number(layer['dimension_before'], '.1f')} -> {_number(layer['dimension_after'], '.1f')}"
        lines.append(
            f"  {number:>5} {_number(layer['cka'], '7.4f')} {_number(layer['drift'], '9.5f')}"
            f" {layer['angle_mean']:>11.1f} {layer['angle_largest']:>8.1f} {_number(layer['kept'], '7.4f')}  {dimensions}"
        )
    teachers = source["teachers"]
    if teachers:
        lines.append(
            f"  spread within questions, between teachers: {_number(teachers['share_between_before'], '.3f')}"
            f" -> {_number(teachers['share_between_after'], '.3f')} (chance {teachers['chance']:.3f})"
        )
        lines += [f"  rationales of {teacher}: 1-cosine {drift:.5f}" for teacher, drift in teachers["drift"].items()]
    return "\n".join(lines)


def _weights(weights: Mapping[str, Any]) -> str:
    number = weights["matrices_changed"]
    if not number:
        return "weights: no matrix changed"
    energies = ", ".join(
        f"{key.removeprefix('energy_')}: {value:.3f}" for key, value in weights.items() if key.startswith("energy_")
    )
    return (
        f"weights: {number} matrices changed; medians over them:"
        f"\n  change {weights['relative_change']:.5f} of the matrix,"
        f" stable rank {weights['stable_rank']:.1f} (noise: {weights['stable_rank_of_noise']:.0f}),"
        f"\n  90% of its squares within rank {weights['rank_90']:.0f}, 99% within {weights['rank_99']:.0f}"
        f"\n  share of the change's squares in its first singular values:\n    {energies}"
    )


def _number(value: float | None, form: str) -> str:
    width = form.partition(".")[0]
    return f"{'-':>{width}}" if value is None else f"{value:{form}}"
