"""Pictures of a comparison before and after: layers, states, teachers' rationales, weights.

Owns four PNG files. The figures come from `analysis`. Needs matplotlib.

Legend: S sampled tokens, P rationales, D hidden size.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compact_ds.errors import UserError
from compact_ds.evaluation.latent_space import States
from compact_ds.evaluation.pooled import principal_axes, within_questions

_PANELS = (
    ("cka", "linear CKA"),
    ("drift", "1 - cosine"),
    ("angle_mean", "mean principal angle, degrees"),
    ("kept", "variance kept by the leading directions"),
)


def require_matplotlib() -> None:
    """Raise UserError where no picture can be drawn, before anything was measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "analyze", "no matplotlib", "the extra `analyze`", "pip install 'compact-ds[analyze]', or give --no-plot"
        )


def draw(figures: Mapping[str, Any], states: Mapping[str, States], folder: Path) -> None:
    """Write `layers.png`, `states.png`, `weights.png`, and `teachers.png` where a question has several teachers."""
    _layers(figures, folder / "layers.png")
    _states(figures, states, folder / "states.png")
    _weights(figures["weights"], folder / "weights.png")
    first = next(iter(states))
    if figures["sources"][first]["teachers"]:
        _teachers(figures, states[first], folder / "teachers.png")


def _canvas(columns: int, height: float = 3.8) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _layers(figures: Mapping[str, Any], file: Path) -> None:
    figure, axes = _canvas(len(_PANELS))
    for ax, (key, title) in zip(axes, _PANELS, strict=True):
        for i, (name, source) in enumerate(figures["sources"].items()):
            ax.plot([layer[key] for layer in source["layers"]], "o-", ms=3, color=f"C{i}", label=plain(name))
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("layer (0: embeddings)")
        ax.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.savefig(file, dpi=110)


def _states(figures: Mapping[str, Any], states: Mapping[str, States], file: Path) -> None:
    """Sampled tokens before and after, in the plane of most variance before."""
    figure, axes = _canvas(2, 4.4)
    everything = torch.cat([one.sample_before_SD for one in states.values()])
    plane = principal_axes(everything, 2)
    for ax, side in zip(axes, ("before", "after"), strict=True):
        for i, (name, one) in enumerate(states.items()):
            shown = one.sample_before_SD if side == "before" else one.sample_after_SD
            _dots(ax, _project(shown, *plane), f"C{i}", plain(name))
        ax.set_title(f"{side}: states at layer {figures['layer']}", fontsize=10)
    _one_view(axes)
    axes[0].legend(fontsize=8)
    figure.savefig(file, dpi=110)


def _teachers(figures: Mapping[str, Any], states: States, file: Path) -> None:
    """Rationales before and after, less their question's mean, in the plane of most variance before."""
    figure, axes = _canvas(2, 4.4)
    names = [str(prompt.teacher) for prompt in states.pooled]
    questions = [prompt.question for prompt in states.pooled]
    centred = [within_questions(s_PD, questions) for s_PD in (states.pooled_before_PD, states.pooled_after_PD)]
    plane = principal_axes(centred[0], 2)
    for ax, side, states_PD in zip(axes, ("before", "after"), centred, strict=True):
        points_P2 = _project(states_PD, *plane)
        for i, teacher in enumerate(sorted(set(names))):
            mine = torch.tensor([name == teacher for name in names])
            _dots(ax, points_P2[mine], f"C{i}", plain(teacher))
            ax.plot(*points_P2[mine].mean(0).tolist(), "P", ms=11, color=f"C{i}", mec="black")
        ax.set_title(f"{side}: rationales at layer {figures['layer']}, less their question's mean", fontsize=9)
    _one_view(axes)
    axes[0].legend(fontsize=8)
    figure.savefig(file, dpi=110)


def _weights(weights: Mapping[str, Any], file: Path) -> None:
    """Relative change and stable rank of every matrix that changed, by depth, a colour for each kind."""
    figure, axes = _canvas(2, 4.4)
    rows = [row for row in weights["parameters"] if row["stable_rank"] is not None]
    kinds = list(dict.fromkeys(_kind(row["name"]) for row in rows))
    for key, title, ax in (
        ("relative_change", "|change| / |matrix|", axes[0]),
        ("stable_rank", "stable rank of the change (grey: of noise)", axes[1]),
    ):
        for i, kind in enumerate(kinds):
            own = [(_depth(row["name"]), row) for row in rows if _kind(row["name"]) == kind]
            places = [depth for depth, _ in own]
            if key == "stable_rank":
                ax.plot(places, [row["stable_rank_of_noise"] for _, row in own], "_", color="0.7")
            ax.plot(places, [row[key] for _, row in own], "o", ms=4, color=f"C{i % 10}", label=plain(kind))
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("block (-1: outside the blocks)")
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3)
    axes[1].set_yscale("symlog", linthresh=10)
    if kinds:
        axes[0].legend(fontsize=7, ncols=2)
    figure.savefig(file, dpi=110)


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign would open mathematics, a leading underscore hide a label."""
    return re.sub("^_", " _", text.replace("$", r"\$"))


def _project(states_PD: Tensor, mean_D: Tensor, axes_D2: Tensor) -> Tensor:
    return (states_PD.double() - mean_D) @ axes_D2


def _dots(ax: Any, points_P2: Tensor, colour: str, label: str) -> None:
    ax.plot(points_P2[:, 0].tolist(), points_P2[:, 1].tolist(), ".", ms=4, alpha=0.5, color=colour, label=label)
    ax.set_xticks([])
    ax.set_yticks([])


def _one_view(axes: list[Any]) -> None:
    """The same window on both sides: a shift is to be seen as one."""
    for limits, change in (("get_xlim", "set_xlim"), ("get_ylim", "set_ylim")):
        found = [getattr(ax, limits)() for ax in axes]
        for ax in axes:
            getattr(ax, change)(min(low for low, _ in found), max(high for _, high in found))


def _kind(name: str) -> str:
    """`model.layers.3.self_attn.q_proj.weight` is of the kind `q_proj`."""
    return name.removesuffix(".weight").rsplit(".", 1)[-1]


def _depth(name: str) -> int:
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else -1
