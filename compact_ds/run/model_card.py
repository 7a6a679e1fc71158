"""`final/README.md`: the model card, in the Hugging Face form.

Owns its words. The figures are the run's summary, the settings its config. Names that strangers chose (teachers, files) are shown
as text, whatever markup they hold, and of a path only its last part.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from compact_ds import __version__
from compact_ds.data.chat_prompt import DATE_STRING
from compact_ds.data.readers import held_out
from compact_ds.sections import Config

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_MARKUP = re.compile(r"([\\`*_\[\]|$~#])")

_METRICS = (
    ("accuracy", "accuracy (exact match, greedy)"),
    ("answer_loss", "gold answer's loss after the question, nats a token"),
    ("answer_loss_after_steps", "gold answer's loss after a right rationale's steps, nats a token"),
)

_LOADING = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")  # this folder
model = AutoModelForCausalLM.from_pretrained(".")
question = "..."
{prompt}
inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens={special})
output = model.generate(**inputs, max_new_tokens={tokens}, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
_PLAIN = 'prompt = question + "\\n"'
_CHAT = f"""\
message = [{{"role": "user", "content": question}}]
# Some templates write the day; this is the one that training wrote.
day = {{"date_string": "{DATE_STRING}"}}
prompt = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True, **day)"""


def write(
    config: Config, summary: Mapping[str, Any], num_questions: int, has_chat_template: bool, folder: Path
) -> None:
    """Write the card of a finished run beside its weights; `summary` is what `summary.json` says."""
    sections = [
        _front_matter(config, summary),
        f"# {_text(config.run_dir.name)}",
        f"{_text(_name(config.student.model))}, taught by the written rationales of {len(summary['weight'])} teachers with "
        f"[compact_ds](https://pypi.org/project/compact-ds/) {__version__}, method {_text(config.method)}: at every step each "
        "rationale counted by what the student made of it.",
        "## Data\n\n" + _data(config, summary, num_questions),
        "## Results\n\n" + _results(config, summary),
        "## Settings\n\n" + _settings(config),
        "## Loading\n\n```python\n" + _loading(config, has_chat_template) + "```",
        "## Licence\n\nTo be filled in, here and as `license` above: what the base model, the questions and each teacher's terms "
        "allow for their outputs decides together.",
    ]
    (folder / "README.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _front_matter(config: Config, summary: Mapping[str, Any]) -> str:
    fields: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    fields["tags"] = ["compact_ds", "distillation", "chain-of-thought", *(["lora"] if config.student.lora else [])]
    if _is_hub_id(config.student.model):
        fields["base_model"] = config.student.model
    if _is_hub_id(config.data.train):
        fields["datasets"] = [config.data.train]
    source = held_out(config.data)
    if source is not None and summary["accuracy"] is not None:
        metric = {"type": "accuracy", "value": summary["accuracy"]}
        dataset = {"name": _name(source), "type": _name(source)}
        result = {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": [metric]}
        fields["model-index"] = [{"name": config.run_dir.name, "results": [result]}]
    shown = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    return f"---\n# license: to be filled in\n{shown}---"


def _data(config: Config, summary: Mapping[str, Any], num_questions: int) -> str:
    """Where the questions come from, and each teacher's share of the weight."""
    right, wrong = summary["weight_right"], summary["weight_wrong"]
    rows = [
        (_text(teacher), _share(weight), _share(right.get(teacher)), _share(wrong.get(teacher)))
        for teacher, weight in summary["weight"].items()
    ]
    table = _table(("teacher", "weight of a rationale", "where its answer is right", "where it is wrong"), rows)
    words = (
        f"{num_questions} questions of {_text(_name(config.data.train))}. Mean weights over the last quarter of the steps (1 is "
        f"all of a question's weight); {summary['right_share']:.1%} of the weight lay on rationales whose answer is right."
    )
    return f"{words}\n\n{table}"


def _results(config: Config, summary: Mapping[str, Any]) -> str:
    if summary["n"] is None:
        return "Not evaluated: no held-out questions were given."
    rows = [
        (title, _number(summary[f"{key}_before"]), _number(summary[key]))
        for key, title in _METRICS
        if summary[key] is not None
    ]
    source = held_out(config.data)
    words = f"On {summary['n']} held-out questions of {_text(_name(source or ''))}, seed {summary['seed']}."
    return f"{words}\n\n" + _table(("", "before", "after"), rows)


def _settings(config: Config) -> str:
    lora, given = config.student.lora, config.compatibility
    rows = {
        "method": config.method,
        "alpha, beta, gamma, tau": f"{given.alpha}, {given.beta}, {given.gamma}, {given.tau}",
        "steps, of which uniform": f"{config.max_steps}, {given.warmup}",
        "questions a step": config.data.batch_size,
        "learning rate": f"{config.optimizer.lr}, {config.optimizer.schedule}",
        "adapters": f"LoRA, rank {lora.r}, alpha {lora.alpha}, merged" if lora else "none, all weights",
        "mixer": f"{config.mixer.mode}, {config.mixer.solver}",
        "precision, ZeRO stage": f"{config.engine.precision}, {config.engine.zero_stage}",
        "seed": config.seed,
    }
    return _table(("setting", "value"), [(key, _text(str(value))) for key, value in rows.items()])


def _loading(config: Config, has_chat_template: bool) -> str:
    prompt = _CHAT if has_chat_template else _PLAIN
    tokens = config.evaluation.max_new_tokens
    return _LOADING.format(prompt=prompt, special=not has_chat_template, tokens=tokens)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _text(name: str) -> str:
    """A name as Markdown that shows it letter for letter, on one line."""
    return _MARKUP.sub(r"\\\1", html.escape(" ".join(name.split()), quote=False))


def _name(source: str) -> str:
    """A hub id, `task:NAME` and the like as they are; of a path the last part, since folders tell of the machine."""
    return source if _is_hub_id(source) or not Path(source).exists() else Path(source).name


def _is_hub_id(source: str) -> bool:
    return _HUB_ID.fullmatch(source) is not None and not Path(source).exists()


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
