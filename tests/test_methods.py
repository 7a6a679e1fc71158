"""Methods: what each selects, which coefficients it keeps, and what it refuses."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from compact_ds.compatibility.running import RunningScales
from compact_ds.compatibility.weights import weights
from compact_ds.errors import ConfigError
from compact_ds.methods.evidence import Evidence
from compact_ds.methods.method import Labels, check, method
from compact_ds.sections import METHODS, CompatibilityConfig

TEACHERS = ("ada", "ben", "ada", "cleo")
LABELS = (
    Labels("ada", False, False, 1),
    Labels("ben", True, True, 2),
    Labels("ada", None, True, 2),
    Labels("cleo", True, False, 1),
)
CONFIG = CompatibilityConfig(alpha=0.5, beta=0.7, gamma=0.9, warmup=0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("compact", [0, 1, 2, 3]),
        ("uniform", [0, 1, 2, 3]),
        ("consensus", [0, 1, 2, 3]),
        ("single:ada", [0, 2]),
        ("single:dan", []),
        ("best_of", [1, 3]),
        ("verified", [1, 2]),
        ("majority", [1, 2]),
        ("rsr", [0, 1, 2, 3]),
    ],
)
def test_select(name: str, expected: list[int]) -> None:
    assert method(name).select(LABELS, np.random.default_rng(0)) == expected


@pytest.mark.parametrize("name", [*METHODS, "single:b", "single:nobody"])
def test_an_example_is_of_use_exactly_when_something_is_selected(name: str) -> None:
    rng, teachers = np.random.default_rng(1), ("a", "b", "c")
    for _ in range(50):
        size = int(rng.integers(0, 4))
        columns = {
            "teacher": rng.integers(0, 3, size).astype(np.int32),
            "verdict": rng.integers(-1, 2, size).astype(np.int32),
            "answer_right": rng.integers(0, 2, size).astype(np.int32),
            "votes": rng.integers(0, 3, size).astype(np.int32),
        }
        labels = [
            Labels(teachers[t], None if v < 0 else bool(v), bool(right), int(votes))
            for t, v, right, votes in zip(*(columns[k] for k in columns), strict=True)
        ]
        chosen = method(name).select(labels, np.random.default_rng(0))
        assert bool(method(name).selectable(columns.__getitem__, teachers).any()) == bool(chosen)


def test_best_of_selects_nothing_when_none_is_right() -> None:
    assert method("best_of").select((Labels("ada", False), Labels("ben")), np.random.default_rng(0)) == []


def test_majority_takes_all_that_lead_and_nothing_without_answers() -> None:
    draw = np.random.default_rng(0)
    assert method("majority").select([Labels(name, votes=1) for name in "abc"], draw) == [0, 1, 2]
    assert method("majority").select([Labels(name) for name in "abc"], draw) == []


def test_first_draws_each_rationale_as_often() -> None:
    draw = np.random.default_rng(3)
    drawn = [method("first").select(LABELS, draw) for _ in range(4000)]
    assert all(len(chosen) == 1 for chosen in drawn)
    # Each count is binomial(4000, 1/4): 1000 with a standard deviation of 27; 5 of them are 137.
    assert all(abs(count - 1000) < 137 for count in Counter(chosen[0] for chosen in drawn).values())
    again = np.random.default_rng(3)
    assert drawn[:20] == [method("first").select(LABELS, again) for _ in range(20)]
    assert method("first").select((), again) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("compact", (0.5, 0.7, 0.9)),
        ("consensus", (1, 0, 0)),
        ("adaptability", (0, 1, 0)),
        ("difficulty", (0, 0, 1)),
        ("compact_without_consensus", (0, 0.7, 0.9)),
        ("compact_without_adaptability", (0.5, 0, 0.9)),
        ("compact_without_difficulty", (0.5, 0.7, 0)),
        ("uniform", (0, 0, 0)),
        ("first", (0, 0, 0)),
    ],
)
def test_settings(name: str, expected: tuple[float, float, float]) -> None:
    settings = method(name).settings(CONFIG)
    assert (settings.alpha, settings.beta, settings.gamma) == expected
    assert settings.tau == CONFIG.tau and settings.warmup == CONFIG.warmup


def test_training_has_the_probes_that_adaptability_reads() -> None:
    number = {name: method(name).probes(CONFIG, 8) for name in METHODS}
    probed = ("compact", "compact_without_consensus", "compact_without_difficulty", "adaptability")
    assert number == {name: 1 if name in probed else 0 for name in METHODS}
    assert method("compact").probes(CONFIG.model_copy(update={"beta": 0.0}), 8) == 0
    jumps = [method("compact").probes(CONFIG.model_copy(update={"adaptability": k}), 8) for k in ("jump", "mix")]
    assert jumps == [8, 8]


def test_weigh() -> None:
    scales = RunningScales(0.9)
    scales.update(torch.ones(RunningScales(0.5).size, dtype=torch.float64))
    metrics_MR = torch.tensor([[0.1, 0.9, 0.4], [2.0, 0.0, 1.0], [0.0, 1.0, 3.0]])
    places = (torch.tensor([0, 0, 0]), torch.tensor([0, 1, 1]), 1)
    evidence = Evidence(metrics_MR, torch.ones(3), torch.ones(3), None, *places)
    for name in ("compact", "consensus", "adaptability", "difficulty"):
        settings = method(name).settings(CONFIG)
        expected_R = weights(metrics_MR, *places, scales, settings, 0)
        assert torch.equal(method(name).weigh(evidence, scales, settings, 0), expected_R)
        assert not torch.allclose(expected_R, torch.tensor([0.5, 0.25, 0.25]))
    for name in ("uniform", "single:ada", "best_of", "first", "verified", "majority"):
        found = method(name).weigh(evidence, scales, method(name).settings(CONFIG), 0)
        assert found.tolist() == [0.5, 0.25, 0.25]


@pytest.mark.parametrize("name", ["compacr", "single:", "single", ""])
def test_an_unknown_method_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="method: found"):
        method(name)


def test_check_names_the_nearest_teacher() -> None:
    with pytest.raises(ConfigError, match=r"method: found single:cloe; .*did you mean 'cleo'\?"):
        check(method("single:cloe"), TEACHERS, has_verdicts=True)
    check(method("single:cleo"), TEACHERS, has_verdicts=False)


def test_check_refuses_the_oracle_without_verdicts() -> None:
    with pytest.raises(ConfigError, match=r"method: found best_of; .*is_correct"):
        check(method("best_of"), TEACHERS, has_verdicts=False)
    check(method("best_of"), TEACHERS, has_verdicts=True)
    check(method("compact"), TEACHERS, has_verdicts=False)
