"""Reference batches and teachers' trees of their own: the same numbers as the batches that they are taken from."""

import json
from typing import Literal

import pytest
import torch
from uneven_questions import write

from compact_ds.config import load
from compact_ds.data.readers import read
from compact_ds.engine.ranks import Ranks
from compact_ds.errors import ConfigError
from compact_ds.optimizer_step.reference_sets import reference_sets, retention_set
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.sections import Config, MixerConfig
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Measurement, Student, measure
from compact_ds.tree.batch import Batch
from compact_ds.tree.tokenise import Tokeniser

CPU = torch.device("cpu")
Made = tuple[Config, Tokeniser, Student]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("references")
    questions = write(folder / "questions.jsonl")
    overrides = [
        f"data.train={questions}",
        f"data.eval={questions}",
        f"data.cache_dir={folder}",
        f"run_dir={folder / 'run'}",
    ]
    overrides += ["data.batch_size=8", "student.scratch.hidden_size=64", "student.scratch.intermediate_size=128"]
    overrides += [f"mixer.retain={{train: {questions}, batch_size: 4}}", "mixer.probe_questions=5"]
    config = load("arithmetic", [*overrides, "tree.row_tokens=200", "tree.rows=1"])
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    return config, tokeniser, Student(load_lm(config, len(tokeniser.tokenizer)), "tree").eval()


@torch.no_grad()
def scored(student: Student, batch: Batch) -> Measurement:
    lse_N, z_N1 = student(batch)
    return measure(lse_N, z_N1, batch, "torch")


def test_the_gold_answer_as_a_text_costs_what_its_probe_says(made: Made) -> None:
    config, tokeniser, student = made
    assert config.data.eval is not None
    gold = reference_sets(config, tokeniser, Ranks(0, 1, CPU))["answer"]
    assert gold.num_examples == 5
    examples = list(read(config.data.eval, config.data, 0))[:5]
    losses: dict[str, float] = {}
    drawn = gold.draw(0)
    for batch, records in zip(drawn.batches, drawn.records, strict=True):
        found = scored(student, batch)
        losses |= {record.id: float(loss) for record, loss in zip(records, found.token_loss_R, strict=True)}
    data = TrainingSet(config, tokeniser)
    probed: dict[str, float] = {}
    for batch, records, _ in data.batches_of(data.usable):
        probes = scored(student, batch).probed
        assert probes is not None
        probed |= {records[e].id: -float(probes.gold0_R[i]) for i, (e, _) in enumerate(batch.places_R)}
    for example in examples:
        # The same tokens after the same prefix, in fp32.
        assert losses[example.id] == pytest.approx(probed[example.id], abs=1e-5)


def unretained(config: Config) -> MixerConfig:
    return config.mixer.model_copy(update={"retain": None})


# Five are asked for, of 60.
@pytest.mark.parametrize(("world_size", "limit", "each"), [(2, None, 3), (2, 5, 2), (12, None, 1), (60, None, 1)])
def test_ranks_share_the_gold_answers_evenly(made: Made, world_size: int, limit: int | None, each: int) -> None:
    config, tokeniser, _ = made
    limited = config.evaluation.model_copy(update={"limit": limit})
    config = config.model_copy(update={"evaluation": limited, "mixer": unretained(config)})
    drawn = [reference_sets(config, tokeniser, Ranks(rank, world_size, CPU))["answer"] for rank in range(world_size)]
    assert {one.num_examples for one in drawn} == {each * world_size}
    ids = [{record.id for records in one.draw(0).records for record in records} for one in drawn]
    assert [len(of_rank) for of_rank in ids] == [each] * world_size
    assert len(set().union(*ids)) == each * world_size


def test_too_few_gold_answers_for_the_ranks_are_none(made: Made) -> None:
    config, tokeniser, _ = made
    config = config.model_copy(update={"mixer": unretained(config)})
    assert "answer" not in reference_sets(config, tokeniser, Ranks(0, 61, CPU))


def test_retention_weighs_all_rationales_alike_and_must_fit_the_ranks(made: Made) -> None:
    config, tokeniser, _ = made
    assert config.mixer.retain is not None
    kept = retention_set(config, config.mixer.retain, tokeniser, 2)
    assert kept.method.name == "uniform"
    assert sum(len(records) for records in kept.step(3, Ranks(0, 2, CPU)).records) == 2
    with pytest.raises(ConfigError, match=r"mixer\.retain\.batch_size"):
        retention_set(config, config.mixer.retain, tokeniser, 3)


def test_no_reference_is_drawn_when_none_is_asked_for(made: Made) -> None:
    config, tokeniser, _ = made
    plain = config.model_copy(update={"mixer": config.mixer.model_copy(update={"retain": None, "diagnose_every": 0})})
    assert reference_sets(plain, tokeniser, Ranks(0, 1, CPU)) == {}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("layout", ["tree", "rows"])
def test_every_rationale_is_in_one_teachers_trees_on_the_rank_that_weighed_it(
    made: Made, world_size: int, layout: Literal["tree", "rows"]
) -> None:
    config, tokeniser, _ = made
    tree = config.tree.model_copy(update={"layout": layout, "rows": 4 if layout == "rows" else 1})
    data = TrainingSet(
        config.model_copy(update={"tree": tree, "data": config.data.model_copy(update={"batch_size": 6})}), tokeniser
    )
    counts = set()
    for rank in range(world_size):
        step = data.step(1, Ranks(rank, world_size, CPU))
        numbered, at = {}, 0
        for batch, records in zip(step.batches, step.records, strict=True):
            for e, r in batch.places_R:
                if batch.counts:
                    numbered[at] = (
                        records[e].id,
                        r,
                        int(records[e].rationales[r].teacher),
                        len(records[e].rationales[r].ids),
                    )
                at += 1
        seen = []
        for teacher in range(len(data.teachers)):
            alone = step.alone({teacher})
            counts.add((teacher, len(alone)))
            for one in alone:
                lengths = one.batch.plan.offsets_S1.diff()
                for i, place in enumerate(one.index_R.tolist() if one.batch.counts else []):
                    assert numbered[place][2] == teacher == int(one.batch.teacher_R[i])
                    assert int(lengths[i]) == numbered[place][3]
                    seen.append(place)
                assert one.batch.num_probes == 0 or not one.batch.counts
        assert sorted(seen) == sorted(numbered)
    # All ranks make the same number of passes for each teacher.
    assert len(counts) == len(data.teachers)


def test_losses_of_a_teachers_own_trees_are_those_of_the_step(made: Made) -> None:
    config, tokeniser, student = made
    data = TrainingSet(config, tokeniser)
    step = data.step(0, Ranks(0, 1, CPU))
    loss_M = torch.cat([scored(student, batch).token_loss_R for batch in step.batches])
    for teacher in range(len(data.teachers)):
        for one in step.alone({teacher}):
            found_R = scored(student, one.batch).token_loss_R
            # fp32 attention over another set of rows.
            assert (found_R - loss_M[one.index_R]).abs().max() < 1e-5


def test_a_file_of_retention_questions_that_is_not_there_is_named(made: Made) -> None:
    config, tokeniser, _ = made
    assert config.mixer.retain is not None
    retain = config.mixer.retain.model_copy(update={"train": "nowhere.jsonl"})
    with pytest.raises(ValueError, match=r"nowhere\.jsonl"):
        retention_set(config, retain, tokeniser, 1)


def test_loss_mode_takes_no_solver() -> None:
    with pytest.raises(ConfigError, match=r"mixer\.mode=gradient"):
        load("arithmetic", ["mixer.solver=mgda"])
    assert json.loads(load("arithmetic", ["mixer.mode=gradient", "mixer.solver=mgda"]).mixer.model_dump_json())
