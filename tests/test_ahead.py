"""What is made ahead for the next step is what would be made then."""

from __future__ import annotations

import threading
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from compact_ds.config import load
from compact_ds.engine.ranks import Ranks
from compact_ds.optimizer_step.ahead import Ahead
from compact_ds.optimizer_step.batches import StepBatches
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.phases import measured, phase
from compact_ds.student.load import load_tokenizer
from compact_ds.tree.tokenise import Tokeniser


def test_what_follows_is_begun_in_a_thread_once_two_have_followed_one_another() -> None:
    made: list[tuple[int, bool]] = []
    came = threading.Semaphore(0)

    def make(step: int) -> int:
        made.append((step, threading.current_thread() is threading.main_thread()))
        came.release()
        return 10 * step

    ahead = Ahead(make)
    assert ahead.take(4, 5) == 40 and made == [(4, True)]
    assert ahead.take(5, 6) == 50
    for _ in range(3):
        assert came.acquire(timeout=10)
    assert made == [(4, True), (5, True), (6, False)], "begun before it is asked for"
    assert ahead.take(6, 7) == 60 and (6, True) not in made


def test_what_was_begun_for_another_question_is_not_taken() -> None:
    ahead: Ahead[tuple[int, str], tuple[int, str]] = Ahead(lambda asked: asked)
    for asked, following in (((1, "a"), (2, "a")), ((2, "a"), (3, "a")), ((3, "b"), (4, "b")), ((4, "b"), (5, "b"))):
        assert ahead.take(asked, following) == asked


def test_an_error_of_what_was_begun_is_raised_to_the_one_who_asks() -> None:
    def make(step: int) -> int:
        if step == 3:
            raise ValueError("step 3")
        return step

    ahead = Ahead(make)
    assert [ahead.take(1, 2), ahead.take(2, 3)] == [1, 2]
    with pytest.raises(ValueError, match="step 3"):
        ahead.take(3, 4)
    assert ahead.take(4, 5) == 4


def _same(ours: StepBatches, theirs: StepBatches) -> None:
    assert ours.places == theirs.places
    assert [[record.id for record in kept] for kept in ours.records] == [
        [r.id for r in kept] for kept in theirs.records
    ]
    for a, b in zip(ours.batches, theirs.batches, strict=True):
        for field in fields(a):
            one, other = getattr(a, field.name), getattr(b, field.name)
            if isinstance(one, torch.Tensor):
                assert torch.equal(one, other), field.name


def test_batches_for_a_gpu_are_those_for_a_cpu_at_every_step_also_when_an_example_is_left_out(tmp_path: Path) -> None:
    config = load("arithmetic", ["data.limit=60", "data.batch_size=8", f"data.cache_dir={tmp_path}"])
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    here, there = (TrainingSet(config, tokeniser) for _ in range(2))
    cpu, gpu = (Ranks(1, 2, torch.device(kind)) for kind in ("cpu", "cuda"))
    for step in (0, 1, 2, 3, 3, 4, 5):
        if step == 3:
            for one in (here, there):
                one.leave_out(step, {0, 5})
        _same(there.step(step, gpu), here.step(step, cpu))


def test_another_thread_does_not_disturb_the_clock() -> None:
    with measured() as clock, phase("data"):
        thread = threading.Thread(target=lambda: phase("tree").__enter__())
        thread.start()
        thread.join()
    assert set(clock.seconds) == {"data"}
