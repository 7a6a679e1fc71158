"""What evaluation adds to a rank's plan, against the plain model that a run makes and the cache that it fills."""

from types import SimpleNamespace

import pytest
import torch

from compact_ds.config import load
from compact_ds.launcher.plan_evaluation import evaluated_tokens, evaluation
from compact_ds.launcher.plan_memory import memory
from compact_ds.launcher.plan_shape import shape
from compact_ds.launcher.plan_workload import Lengths, workload
from compact_ds.sections import Config
from compact_ds.student import export
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.train import _Run

SCRATCH = "student.scratch={hidden_size: 64, intermediate_size: 160, num_hidden_layers: 2, num_attention_heads: 4}"
LENGTHS = Lengths(teachers=3, question=20, rationale=30)


def config_of(*own: str) -> Config:
    return load("arithmetic", [SCRATCH, "mixer.diagnose_every=0", *own])


@pytest.mark.parametrize("lora", [False, True])
def test_the_moment_holds_what_a_run_makes(lora: bool) -> None:
    config = config_of(*(["student.lora={r: 4}"] if lora else []))
    tokenizer = load_tokenizer(config.student)
    lm = load_lm(config, len(tokenizer))
    state = {name: p.detach() for name, p in lm.named_parameters()}
    plain = export.plain_model(export.plain_config(lm, tokenizer, config.student), state, config.student)
    cache = plain(input_ids=torch.zeros(3, 11, dtype=torch.int64), use_cache=True).past_key_values
    expected = {
        "whole student": sum(p.nbytes for p in plain.parameters()),
        "keys and values": sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers),
    }
    assert evaluation(shape(config, len(tokenizer)), 3 * 11, 4) == expected


@pytest.mark.parametrize(
    ("own", "world_size", "expected"),
    [
        (["evaluation.batch_size=8", "evaluation.limit=null"], 4, 8 * (20 + 50)),
        # Three questions a rank, so no more at a time.
        (["evaluation.batch_size=8", "evaluation.limit=10"], 4, 3 * (20 + 50)),
        (["data.train=task:arithmetic:eval"], 1, None),
        (["data.train=task:arithmetic:eval", "evaluation.retention=[texts.txt]"], 1, 0),
    ],
)
def test_texts_written_at_a_time(own: list[str], world_size: int, expected: int | None) -> None:
    assert evaluated_tokens(config_of("evaluation.max_new_tokens=50", *own), 20, world_size) == expected


def test_an_adapted_student_may_need_most_while_it_evaluates() -> None:
    own = ["student.lora={r: 4}", "data.batch_size=2", "evaluation.batch_size=1000", "evaluation.max_new_tokens=500"]
    config, without = config_of(*own, "evaluation.limit=null"), config_of(*own, "data.train=task:arithmetic:eval")
    student = shape(config, 1000)
    found, other = (memory(c, student, workload(c, LENGTHS, 1), 1, on_gpu=True) for c in (config, without))
    own_parameters = sum(p.numel for p in student.parameters if not p.trained)
    assert (found.moment, found.parts["whole student"]) == ("evaluation", 4 * own_parameters)
    assert other.moment != "evaluation"
    assert (found.host, other.host) == (4 * own_parameters, 0)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("measures", [False, True])
def test_only_ranks_that_measure_or_export_hold_the_student(first: bool, measures: bool) -> None:
    config = config_of()
    tokenizer = load_tokenizer(config.student)
    lm = load_lm(config, len(tokenizer))
    run = SimpleNamespace(
        held_out=["a question"] if measures else [],
        kept={},
        engine=SimpleNamespace(student=torch.nn.ModuleDict({"lm": lm})),
        group=SimpleNamespace(is_first=first, device=torch.device("cpu")),
        lm_config=export.plain_config(lm, tokenizer, config.student),
        config=config,
    )
    plain = _Run._plain(run)  # type: ignore[arg-type]
    if not (first or measures):
        assert plain is None
        return
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, lm.get_parameter(name))
