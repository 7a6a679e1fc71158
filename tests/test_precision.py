"""What is said where a processor only imitates bf16, and the precision in which `eval` loads its weights."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from compact_ds.cli import main
from compact_ds.engine import precision
from compact_ds.engine.precision import SLOW, bf16_times, remark_imitated_bf16
from compact_ds.sections import StudentConfig
from compact_ds.student.load import load_tokenizer

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("times", "is_told"), [(7.54, True), (SLOW, True), (SLOW - 0.1, False), (0.4, False)])
def test_slow_bf16_is_told_with_its_factor_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, times: float, is_told: bool
) -> None:
    monkeypatch.setattr(precision, "bf16_times", lambda: times)
    with caplog.at_level(logging.WARNING, "compact_ds"):
        remark_imitated_bf16(torch.bfloat16, CPU, "engine.precision=fp32")
    told = [f"up to {times:.0f} times as long as in fp32; engine.precision=fp32 is faster"] if is_told else []
    assert [record.getMessage().partition("take ")[2] for record in caplog.records] == told


@pytest.mark.parametrize(("dtype", "device"), [(torch.float32, CPU), (torch.bfloat16, GPU)])
def test_fp32_and_gpus_are_not_measured(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, device: torch.device
) -> None:
    monkeypatch.setattr(precision, "bf16_times", lambda: pytest.fail("measured"))
    remark_imitated_bf16(dtype, device, "fp32")


def test_the_measure_is_that_of_a_larger_layers_passes() -> None:
    """Within a factor of 3: caches treat sizes differently, and other work shares them."""
    threads = torch.get_num_threads()

    def seconds(dtype: torch.dtype) -> tuple[float, float]:
        x, weight = torch.ones(256, 768, dtype=dtype, requires_grad=True), torch.ones(512, 768, dtype=dtype)
        forward = backward = float("inf")
        for _ in range(3):
            start = time.thread_time()
            y = torch.nn.functional.linear(x, weight)
            middle = time.thread_time()
            torch.autograd.grad(y, x, torch.ones_like(y))
            forward, backward = min(forward, middle - start), min(backward, time.thread_time() - middle)
        return forward, backward

    torch.set_num_threads(1)
    try:
        expected = max(
            ours / theirs for ours, theirs in zip(seconds(torch.bfloat16), seconds(torch.float32), strict=True)
        )
    finally:
        torch.set_num_threads(threads)
    assert 1 / 3 < bf16_times() / expected < 3
    assert torch.get_num_threads() == threads


@torch.no_grad()
def test_eval_measures_in_the_saved_precision_or_in_the_one_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text = tmp_path / "student", tmp_path / "t.txt"
    tokenizer = load_tokenizer(StudentConfig(model="scratch", tokenizer="task:arithmetic"))
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), initializer_range=0.5, **shape)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text.write_text("4 plus 2 makes 6 .")
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text.read_text())["input_ids"]])
    losses = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        losses[name] = float(torch.nn.functional.cross_entropy(lm(ids).logits[0, :-1].float(), ids[0, 1:]))
    assert abs(losses["fp32"] - losses["bf16"]) > 1e-4
    for words, name in (((), "bf16"), (("--precision", "fp32"), "fp32"), (("--precision", "bf16"), "bf16")):
        assert main(["eval", str(folder), "--perplexity", str(text), *words, "--json"]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        # fp32 sums in another order.
        assert json.loads(line)["text_loss"] == pytest.approx(losses[name], abs=1e-5)
