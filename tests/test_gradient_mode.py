"""Law 4: one backward equals one backward a teacher, under every ZeRO stage, split, head and adapter; and both equal float64."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ROOT, start
from torch import Tensor
from uneven_questions import write

from compact_ds.config import load
from compact_ds.data.readers import read
from compact_ds.data.records import Example
from compact_ds.engine.ranks import Ranks
from compact_ds.optimizer_step.reference_sets import retention_set
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.tree.tokenise import Tokeniser

WORKER = Path(__file__).with_name("gradient_of_a_step.py")

Steps = dict[str, dict[str, Any]]

# Of the largest element of a parameter's gradient, in fp32 sums of another order; measured 2e-6.
RELATIVE = 1e-5

GRADIENT = ["mixer.mode=gradient"]
SMALL_ROWS = ["tree.row_tokens=160", "tree.rows=1"]
TIED = ["student.scratch.tie_word_embeddings=true"]
LORA = ["student.lora.r=4", "student.lora.alpha=8"]
BF16 = ["engine.precision=bf16"]
GROUPS = ["mixer.groups={pair: [ada, ben]}"]
OFFLOAD_3 = [f"engine.deepspeed={ROOT / 'configs/deepspeed/zero3_offload.json'}"]
OFFLOAD_1, OFFLOAD_2 = ["engine.deepspeed={offload_1}"], ["engine.deepspeed={offload_2}"]
OFFLOADED = {"offloaded 1": OFFLOAD_1, "offloaded 2": OFFLOAD_2, "offloaded 3": OFFLOAD_3}
STAGES = {f"stage {stage}": [f"engine.zero_stage={stage}"] for stage in range(4)}
# Everything that is measured beside the update must leave it alone.
WATCHED = [
    "mixer.diagnose_every=1",
    "mixer.probe_questions=4",
    "mixer.retain={train: QUESTIONS, batch_size: 4, guard: false}",
]

GUARDED = ["method=uniform", "mixer.diagnose_every=1", "mixer.probe_questions=6", "data.batch_size=6"]
GUARDED += ["mixer.retain={train: QUESTIONS, batch_size: 6, margin: 0.5}", *SMALL_ROWS]

CASES = {
    1: {
        "loss": [],
        "guarded loss": GUARDED,
        "guarded gradient": [*GUARDED, *GRADIENT],
        **{name: [*own, *GRADIENT, *SMALL_ROWS] for name, own in STAGES.items()},
        "groups": [*GRADIENT, *GROUPS],
        "rows": [*GRADIENT, "tree.layout=rows"],
        "offloaded 3": [*GRADIENT, *OFFLOAD_3, *SMALL_ROWS],
        "offloaded 2": [*GRADIENT, *OFFLOAD_2, *SMALL_ROWS],
        "offloaded 1": [*GRADIENT, *OFFLOAD_1, *SMALL_ROWS],
        "offloaded 1 loss": [*OFFLOAD_1, *SMALL_ROWS],
        "offloaded 2 loss": [*OFFLOAD_2, *SMALL_ROWS],
        "offloaded 3 loss": [*OFFLOAD_3, *SMALL_ROWS],
        "recomputed": [*GRADIENT, "student.gradient_checkpointing=true"],
        "watched": WATCHED,
        "watched gradient": [*GRADIENT, *WATCHED],
        "tied loss": TIED,
        "lora loss": LORA,
        "uniform": ["method=uniform"],
        "uniform tied": ["method=uniform", *TIED, *GRADIENT],
        "uniform lora": ["method=uniform", *LORA, *GRADIENT],
    },
    2: {
        **{f"2 {name}": [*own, *GRADIENT, *SMALL_ROWS] for name, own in STAGES.items()},
        **{f"2 tied {name}": [*own, *GRADIENT, *TIED] for name, own in STAGES.items()},
        **{f"2 lora {name}": [*own, *GRADIENT, *LORA] for name, own in STAGES.items()},
        **{f"2 bf16 {name}": [*own, *GRADIENT, *BF16, *SMALL_ROWS] for name, own in list(STAGES.items())[1:]},
        **{f"2 bf16 {name} loss": [*own, *BF16, *SMALL_ROWS] for name, own in list(STAGES.items())[1:]},
        **{f"2 bf16 {name}": [*own, *GRADIENT, *BF16, *SMALL_ROWS] for name, own in OFFLOADED.items()},
        **{f"2 bf16 {name} loss": [*own, *BF16, *SMALL_ROWS] for name, own in OFFLOADED.items()},
        "2 offloaded 1": [*GRADIENT, *OFFLOAD_1],
        "2 offloaded 2": [*GRADIENT, *OFFLOAD_2],
        "2 offloaded 3": [*GRADIENT, *OFFLOAD_3],
        "2 watched": [*WATCHED, *SMALL_ROWS],
        **{f"2 guarded {name}": [*own, *GUARDED, *GRADIENT] for name, own in STAGES.items()},
        **{f"2 guarded loss {name}": [*own, *GUARDED] for name, own in STAGES.items()},
        "2 guarded offloaded": [*GUARDED, *OFFLOAD_1],
    },
    3: {f"3 guarded {name}": [*own, *GUARDED, *GRADIENT] for name, own in STAGES.items()},
}  # fmt: skip


def common_overrides(folder: Path, questions: Path) -> list[str]:
    own = [f"data.train={questions}", f"data.cache_dir={folder}", f"run_dir={folder / 'run'}", "data.batch_size=8"]
    own += ["compatibility.warmup=0", "student.scratch.hidden_size=64", "student.scratch.intermediate_size=128"]
    # Adam divides by |g| + eps: a large eps keeps the rounding of a gradient near 0 from becoming a whole step.
    return [*own, "optimizer.eps=1e-3", "optimizer.grad_clip=0.5", "mixer.diagnose_every=0", f"data.eval={questions}"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("steps")
    write(made / "questions.jsonl")
    for stage in (1, 2):
        offload = {"zero_optimization": {"stage": stage, "offload_optimizer": {"device": "cpu"}}}
        (made / f"offload_{stage}.json").write_text(json.dumps(offload), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def steps(folder: Path) -> Steps:
    """What one optimizer step over the same eight questions gives in every case."""
    found = {}
    for world_size, cases in CASES.items():
        listed: list[dict[str, Any]] = []
        for name, own in cases.items():
            words = [w.replace("QUESTIONS", str(folder / "questions.jsonl")) for w in own]
            for stage in (1, 2):
                words = [w.replace(f"{{offload_{stage}}}", str(folder / f"offload_{stage}.json")) for w in words]
            overrides = [*common_overrides(folder, folder / "questions.jsonl"), *words]
            listed.append({"out": str(folder / f"{name}.pt"), "mute": False, "overrides": overrides})
        file = folder / f"{world_size}.json"
        file.write_text(json.dumps(listed), encoding="utf-8")
        _, outputs = start([str(WORKER), str(file)], world_size)
        for case in listed:
            out = Path(case["out"])
            assert out.exists(), (out.stem, outputs[0][-3000:])
            found[out.stem] = torch.load(out, weights_only=True)
    return found


def assert_same_gradients(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        difference = (got[name].double() - value.double()).abs().max()
        assert difference <= RELATIVE * value.abs().max(), (name, float(difference / value.abs().max()))


def _assert_same_step(got: Mapping[str, Any], want: Mapping[str, Any]) -> None:
    assert_same_gradients(got["gradients"], want["gradients"])
    assert got["norm"] == pytest.approx(want["norm"], rel=1e-5)
    for name, value in want["parameters"].items():
        # Adam's first step is about lr = 1e-2 an element; the gradient's rounding moves it by 1e-4 of that.
        assert (got["parameters"][name] - value).abs().max() < 2e-6, name


UNTIED = [*STAGES, *(f"2 {name}" for name in STAGES), "groups", "rows", "offloaded 3", "offloaded 2", "recomputed"]
UNTIED += [
    *(f"offloaded {stage} loss" for stage in (1, 2, 3)),
    "offloaded 1",
    "2 offloaded 1",
    "2 offloaded 2",
    "2 offloaded 3",
    "watched",
    "watched gradient",
    "2 watched",
]


@pytest.mark.parametrize("name", UNTIED)
def test_one_pass_a_teacher_gives_the_update_of_one_pass(steps: Steps, name: str) -> None:
    _assert_same_step(steps[name], steps["loss"])


@pytest.mark.parametrize("head", ["tied", "lora"])
@pytest.mark.parametrize("stage", list(STAGES))
def test_tied_heads_and_adapters_too(steps: Steps, head: str, stage: str) -> None:
    _assert_same_step(steps[f"2 {head} {stage}"], steps[f"{head} loss"])


@pytest.mark.parametrize("stage", [*list(STAGES)[1:], *OFFLOADED])
def test_in_bf16_both_modes_point_the_same_way(steps: Steps, stage: str) -> None:
    one, several = (
        torch.cat([g.flatten() for g in steps[name]["gradients"].values()])
        for name in (f"2 bf16 {stage} loss", f"2 bf16 {stage}")
    )
    # bf16 keeps 8 bits; each mode rounds other sums. Measured 3.7e-3.
    assert (one - several).norm() < 1e-2 * one.norm()
    assert steps[f"2 bf16 {stage}"]["norm"] == pytest.approx(steps[f"2 bf16 {stage} loss"]["norm"], rel=1e-2)


def test_bf16_without_zero_is_refused_with_the_way_out(folder: Path) -> None:
    case = {"out": str(folder / "refused.pt"), "mute": False}
    overrides = [*common_overrides(folder, folder / "questions.jsonl"), *BF16, "engine.zero_stage=0"]
    (folder / "refused.json").write_text(json.dumps([case | {"overrides": overrides}]), encoding="utf-8")
    codes, outputs = start([str(WORKER), str(folder / "refused.json")], 1)
    assert codes == [1] and "engine.precision: found bf16; expected ZeRO stage 1, 2 or 3" in outputs[0]


def test_measuring_leaves_the_update_as_it_is_bit_for_bit(steps: Steps) -> None:
    for name, value in steps["loss"]["gradients"].items():
        assert torch.equal(steps["watched"]["gradients"][name], value), name


GUARDED_CASES = ["guarded gradient", "2 guarded offloaded", *(f"{w} guarded {s}" for w in (2, 3) for s in STAGES)]
GUARDED_CASES += [f"2 guarded loss {stage}" for stage in STAGES]


@pytest.mark.parametrize("name", GUARDED_CASES)
def test_guard_and_instruments_do_not_depend_on_mode_stage_or_split(steps: Steps, name: str) -> None:
    _assert_same_step(steps[name], steps["guarded loss"])
    got, want = (
        {(key, who): value for key, of in steps[which]["report"].items() for who, value in of.items()}
        for which in (name, "guarded loss")
    )
    assert got.keys() == want.keys() and len(want) > 30
    for key, value in want.items():
        # Cosines and shares of gradients that agree to 1e-5.
        assert got[key] == pytest.approx(value, rel=2e-4, abs=2e-5), key


def test_the_guarded_update_and_its_losses_in_float64(steps: Steps, folder: Path) -> None:
    words = [w.replace("QUESTIONS", str(folder / "questions.jsonl")) for w in GUARDED]
    config = load("arithmetic", [*common_overrides(folder, folder / "questions.jsonl"), *words])
    tokenizer = load_tokenizer(config.student)
    examples = {e.id: e for e in read(config.data.train, config.data, 0)}
    assert config.mixer.retain is not None
    kept = retention_set(config, config.mixer.retain, Tokeniser(tokenizer, config.data.cue), 1)
    drawn = [record.id for records in kept.step(0, Ranks(0, 1, torch.device("cpu"))).records for record in records]
    lm = load_lm(config, len(tokenizer)).double()
    _, update = plain_gradient(lm, tokenizer, [examples[name] for name in steps["guarded loss"]["ids"]])
    loss, retention = plain_gradient(lm, tokenizer, [examples[name] for name in drawn])
    assert steps["guarded loss"]["report"]["reference_loss"]["retention"] == pytest.approx(loss, rel=1e-6)
    flat = [torch.cat([g.flatten() for g in of.values()]) for of in (update, retention)]
    push = max(0.0, 0.5 - float(flat[0] @ flat[1] / (flat[1] @ flat[1])))
    want = {name: gradient + push * retention[name] for name, gradient in update.items()}
    assert_same_gradients(steps["guarded loss"]["gradients"], want)
    gold = list(examples.values())[:6]
    answers = [answer_loss(lm, tokenizer, config.data.cue, example) for example in gold]
    found = steps["guarded loss"]["report"]["reference_loss"]["answer"]
    assert found == pytest.approx(sum(answers) / len(answers), rel=1e-6)


def answer_loss(lm: Any, tokenizer: Any, cue: str, example: Example) -> float:
    prompt = tokenizer(example.question + "\n")["input_ids"]
    ids, bare = (tokenizer(cue + text)["input_ids"] for text in (example.answer, ""))
    labels = [-100] * (len(prompt) + len(bare)) + ids[len(bare) :]
    with torch.no_grad():
        return float(lm(input_ids=torch.tensor([prompt + ids]), labels=torch.tensor([labels])).loss)


def plain_gradient(lm: Any, tokenizer: Any, examples: Sequence[Example]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradient of the mean over questions of the mean over teachers of the mean over their rationales."""
    lm.zero_grad()
    total = 0.0
    for example in examples:
        prompt = tokenizer(example.question + "\n")["input_ids"]
        for rationale in example.rationales:
            answer = [*tokenizer(rationale.text)["input_ids"], tokenizer.eos_token_id]
            labels = torch.tensor([[-100] * len(prompt) + answer])
            loss = lm(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
            same = sum(other.teacher == rationale.teacher for other in example.rationales)
            voices = len({other.teacher for other in example.rationales})
            (loss / voices / same / len(examples)).backward()
            total += float(loss) / voices / same / len(examples)
    return total, {f"lm.{n}": p.grad.clone() for n, p in lm.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("name", "own"), [("uniform", []), ("uniform tied", TIED), ("uniform lora", LORA)])
def test_both_equal_the_plain_sum_of_teacher_gradients_in_float64(
    steps: Steps, folder: Path, name: str, own: list[str]
) -> None:
    config = load("arithmetic", [*common_overrides(folder, folder / "questions.jsonl"), *own])
    tokenizer = load_tokenizer(config.student)
    lm = load_lm(config, len(tokenizer)).double()
    examples = [e for e in read(config.data.train, config.data, 0) if e.id in steps[name]["ids"]]
    assert len(examples) == 8
    assert_same_gradients(steps[name]["gradients"], plain_gradient(lm, tokenizer, examples)[1])
