"""The model card: read by the hub's own parser, its figures against the summary, its code run, strangers' names as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from markdown_it import MarkdownIt
from transformers import AutoConfig, AutoModelForCausalLM

from compact_ds.config import load
from compact_ds.run import model_card
from compact_ds.sections import StudentConfig
from compact_ds.student.load import load_tokenizer

EVIL = "a|b <script>alert(1)</script> [x](javascript:y) `c` *d*\n# e"
SUMMARY = {
    "method": "compact", "seed": 3, "steps": 40, "accuracy": 0.625, "accuracy_before": 0.0, "answer_loss": 1.25,
    "answer_loss_before": 2.5, "answer_loss_after_steps": None, "answer_loss_after_steps_before": None, "n": 200,
    "train_seconds": 9.0, "right_share": 0.84, "weight": {"ada": 0.75, EVIL: 0.25}, "weight_right": {"ada": 0.875},
    "weight_wrong": {"ada": 0.5, EVIL: 0.25},
}  # fmt: skip


def card(
    folder: Path, overrides: Sequence[str] = (), summary: Mapping[str, Any] = SUMMARY, templated: bool = False
) -> ModelCard:
    config = load("arithmetic", [f"run_dir={folder / 'my run'}", *overrides])
    model_card.write(config, summary, 123, templated, folder)
    found: ModelCard = ModelCard.load(folder / "README.md")
    return found


def facts(found: ModelCard) -> ModelCardData:
    assert isinstance(found.data, ModelCardData)
    return found.data


def rendered(found: ModelCard) -> str:
    page: str = MarkdownIt("commonmark", {"html": True}).enable("table").render(found.text)
    return page


def cells(page: str) -> list[list[str]]:
    """Rows of the tables as what a reader sees."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    return [[c.strip() for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S)] for row in rows]


def test_the_front_matter_is_the_hubs(tmp_path: Path) -> None:
    found = facts(card(tmp_path))
    assert found.library_name == "transformers" and found.pipeline_tag == "text-generation"
    assert found.license is None and found.base_model is None
    assert found.eval_results is not None
    (result,) = found.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("accuracy", 0.625, "task:arithmetic:eval")
    front = (tmp_path / "README.md").read_text().split("---")[1]
    assert "# license: to be filled in" in front and "license" not in yaml.safe_load(front)


def test_hub_ids_are_named_and_paths_are_not(tmp_path: Path) -> None:
    data = tmp_path / "secret" / "train.jsonl"
    data.parent.mkdir()
    data.write_text("{}")
    named = ["student.model=org/base-1B", "student.scratch=null", "student.lora={r: 8}", f"data.train={data}"]
    found = card(tmp_path, named, SUMMARY | {"n": None, "accuracy": None})
    told = facts(found)
    assert told.base_model == "org/base-1B" and told.tags is not None and "lora" in told.tags
    assert told.eval_results is None and "Not evaluated" in found.text
    assert "secret" not in (tmp_path / "README.md").read_text() and "train.jsonl" in found.text
    assert facts(card(tmp_path, ["data.train=org/questions"])).datasets == ["org/questions"]


def test_figures_and_shares(tmp_path: Path) -> None:
    rows = cells(rendered(card(tmp_path)))
    assert ["ada", "0.750", "0.875", "0.500"] in rows
    assert ["accuracy (exact match, greedy)", "0", "0.625"] in rows
    assert [row[1:] for row in rows if row[0].startswith("gold answer")] == [["2.5", "1.25"]]
    assert ["questions a step", "24"] in rows
    text = card(tmp_path).text
    assert "123 questions of task:arithmetic" in text and "84.0%" in text and "On 200 held-out questions" in text


def test_a_teachers_name_is_text(tmp_path: Path) -> None:
    page = rendered(card(tmp_path))
    assert "<script" not in page and '<a href="javascript' not in page and "<code>c" not in page and "<em>" not in page
    (row,) = [row for row in cells(page) if row[0].startswith("a|b")]
    assert row == ["a|b &lt;script&gt;alert(1)&lt;/script&gt; [x](javascript:y) `c` *d* # e", "0.250", "-", "0.250"]
    assert page.count("<h1>") == 1


def test_its_code_runs_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(StudentConfig(model="scratch", tokenizer="task:arithmetic"))
    shape = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(shape).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", card(tmp_path, ["evaluation.max_new_tokens=5"]).text, re.S)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code.replace("...", "2 plus 3"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("templated", [False, True])
def test_its_code_is_python_and_asks_as_training_did(tmp_path: Path, templated: bool) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", card(tmp_path, templated=templated).text, re.S)
    compile(code, "card", "exec")
    assert ("apply_chat_template" in code) == templated
    # Templates that tell the date told this one (data.chat_prompt).
    assert ("date_string" in code and "26 Jul 2024" in code) == templated
    # A template brings its own special tokens (tree.tokenise).
    assert ("add_special_tokens=False" in code) == templated
