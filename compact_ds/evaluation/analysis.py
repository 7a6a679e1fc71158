"""The comparison of a student before and after: states on trained and other questions, teachers, weights.

Owns the order of the job and the names of its figures. The parts are beside this file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_ds.data.readers import read
from compact_ds.errors import UserError
from compact_ds.evaluation import latent_picture, pooled, projector, weight_space
from compact_ds.evaluation.latent_space import States, number_of_layers, states_of
from compact_ds.evaluation.moments import PairMoments
from compact_ds.evaluation.prompts import prompts_of
from compact_ds.launcher.devices import uses_gpu
from compact_ds.sections import DataConfig, StudentConfig
from compact_ds.student.load import DTYPES, load_tokenizer, load_weights
from compact_ds.tree.tokenise import Tokeniser

ENERGY_RANKS = (1, 4, 16, 64)
"""Numbers of leading singular values whose share of a change is told."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What to compare. `before` and `after` are students as `student.model` names them, `data` and `others` sources of questions.

    `layer` (0 is the embeddings) is the one whose states are drawn, None the middle one; `top` the number of leading directions.
    """

    before: str
    after: str
    data: str
    others: Sequence[str] = ()
    limit: int = 100
    batch_size: int = 16
    max_tokens: int = 1024
    top: int = 10
    layer: int | None = None
    precision: str = "fp32"
    seed: int = 0
    split: str = "test"


def run(asked: Analysis, output: Path | None, draws: bool) -> dict[str, Any]:
    """All figures as plain data; with `output` also in `latent.json` there, as pictures, and for the projector. Raises UserError.

    Two of them are no number when there is nothing to divide by, and then None.
    """
    if output is not None and draws:
        latent_picture.require_matplotlib()
    tokeniser = Tokeniser(load_tokenizer(StudentConfig(model=asked.before)), DataConfig(train=asked.data).cue)
    before, after = (
        _load(model, key, asked.precision) for model, key in ((asked.before, "BEFORE"), (asked.after, "AFTER"))
    )
    layer = _layer(asked, number_of_layers(before, after))
    _check_top(asked.top, before.config.get_text_config().hidden_size)
    states: dict[str, States] = {}
    sources: dict[str, Any] = {}
    for name, source in _named([asked.data, *asked.others]).items():
        data = DataConfig(train=source, eval_split=asked.split)
        examples = list(read(source, data, 0, limit=asked.limit, is_held_out=True))
        prompts, cut = prompts_of(examples, tokeniser, asked.max_tokens)
        states[name] = states_of(before, after, prompts, layer, asked.batch_size, asked.seed, name)
        layers = [_layer_figures(moments, asked.top) for moments in states[name].layers]
        sources[name] = {"questions": len(examples), "prompts": len(prompts), "cut": cut}
        sources[name] |= {"tokens": states[name].layers[0].count, "layers": layers, "teachers": teachers(states[name])}
    weights = weight_space.summary(list(weight_space.changes(before, after, ENERGY_RANKS)), ENERGY_RANKS)
    told = {"before": asked.before, "after": asked.after, "layer": layer, "top": asked.top}
    figures: dict[str, Any] = _plain({**told, "sources": sources, "weights": weights})
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "latent.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        projector.write(states, layer, output / "tensorboard")
        if draws:
            latent_picture.draw(figures, states, output)
    return figures


def teachers(states: States) -> dict[str, Any]:
    """How far each teacher's rationales moved, and the share of the spread within questions that is between teachers.

    `chance` is that share's expectation if names meant nothing. Empty where no question has two rationales.
    """
    voices: dict[int, int] = {}
    for prompt in states.pooled:
        voices[prompt.question] = voices.get(prompt.question, 0) + 1
    kept = [i for i, prompt in enumerate(states.pooled) if voices[prompt.question] > 1]
    if not kept:
        return {}
    names = [str(states.pooled[i].teacher) for i in kept]
    questions = [states.pooled[i].question for i in kept]
    before_PD, after_PD = states.pooled_before_PD[kept], states.pooled_after_PD[kept]
    between = [pooled.share_between(pooled.within_questions(s_PD, questions), names) for s_PD in (before_PD, after_PD)]
    shares = {"share_between_before": between[0], "share_between_after": between[1]}
    return {**shares, "chance": 1 / len(set(questions)), "drift": pooled.drifts(before_PD, after_PD, names)}


def _layer_figures(moments: PairMoments, top: int) -> dict[str, float]:
    leading = moments.leading(top)
    before, after = moments.dimensions
    angles = leading.angles_K
    return {
        "cka": moments.cka,
        "drift": moments.drift,
        "angle_largest": angles[0],
        "angle_mean": sum(angles) / len(angles),
        "kept": leading.kept,
        "dimension_before": before,
        "dimension_after": after,
    }


def _load(model: str, key: str, precision: str) -> Any:
    device = "cuda" if uses_gpu() else "cpu"
    return load_weights(model, key, dtype=DTYPES[precision]).to(device).eval()


def _layer(asked: Analysis, num_layers: int) -> int:
    if asked.layer is None:
        return num_layers // 2
    if not 0 <= asked.layer < num_layers:
        raise UserError("--layer", asked.layer, f"0 to {num_layers - 1}", "give a layer that the student has")
    return asked.layer


def _check_top(top: int, size: int) -> None:
    if not 1 <= top <= size:
        raise UserError("--top", top, f"1 to {size}, the student's width", "give another number")


def _named(sources: Sequence[str]) -> dict[str, str]:
    """Sources by the last part of their path, with its folder's where two would be the same, or by all of it."""
    found: dict[str, str] = {}
    for source in dict.fromkeys(sources):
        path = Path(source)
        twins = [other for other in sources if other != source and Path(other).stem == path.stem]
        name = f"{path.parent.name}/{path.stem}" if twins else path.stem
        found[name if path.exists() and name not in found else source] = source
    return found


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
