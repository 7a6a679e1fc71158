"""Which gradients a step needs, what their Gram matrix says, and what is made of it: against whole vectors in float64."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
import torch

from compact_ds.errors import ConfigError
from compact_ds.mixer.diagnostics import diagnose
from compact_ds.mixer.gradient_mode import Reference, Wanted, combine, decide, groups_of, local_gram, wanted
from compact_ds.mixer.surgery import Floats
from compact_ds.sections import MixerConfig

TEACHERS = ("ada", "ben", "cleo")
GUARD = {"train": "somewhere.jsonl", "guard": True, "margin": 0.0}
WATCH = {"train": "somewhere.jsonl", "guard": False}


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def names(found: Sequence[Wanted]) -> list[str]:
    return [one.name for one in found]


def test_teachers_without_a_group_stand_alone() -> None:
    assert groups_of(MixerConfig(), TEACHERS) == {"ada": (0,), "ben": (1,), "cleo": (2,)}
    assert groups_of(MixerConfig(groups={"two": ["cleo", "ada"]}), TEACHERS) == {"two": (0, 2), "ben": (1,)}


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"two": ["ada", "bem"]}, "did you mean 'ben'"),
        ({"one": ["ada"], "two": ["ada"]}, "not in one too"),
        ({"cleo": ["ada", "ben"]}, "rename the group"),
        ({"empty": []}, "at least one teacher"),
    ],
)
def test_groups_that_cannot_be_are_refused(groups: dict[str, list[str]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        groups_of(MixerConfig(groups=groups), TEACHERS)


def test_loss_mode_needs_one_gradient_unless_it_measures_or_guards() -> None:
    groups = groups_of(MixerConfig(), TEACHERS)
    assert names(wanted(MixerConfig(), groups, ["answer"], False)) == ["all teachers"]
    measured = wanted(MixerConfig(), groups, ["answer", "retention"], True)
    assert names(measured) == ["all teachers", *TEACHERS, "answer batch", "retention batch"]
    assert [one.updates for one in measured] == [True] + [False] * 5
    guarded = wanted(MixerConfig(retain=GUARD), groups, ["answer", "retention"], False)
    assert names(guarded) == ["all teachers", "retention batch"]
    assert names(wanted(MixerConfig(retain=WATCH), groups, ["retention"], False)) == ["all teachers"]


def test_gradient_mode_needs_one_a_group() -> None:
    settings = MixerConfig(mode="gradient", groups={"two": ["ada", "cleo"]})
    found = wanted(settings, groups_of(settings, TEACHERS), ["answer"], False)
    assert [(one.name, one.teachers, one.updates) for one in found] == [("two", (0, 2), True), ("ben", (1,), True)]


def test_the_gram_matrix_of_shards_adds_up_to_the_whole_ones() -> None:
    torch.manual_seed(0)
    whole_VN = torch.randn(4, 3_000_001)  # three blocks, the last of one element less than a pair
    parts = [local_gram(part_VN.contiguous()) for part_VN in whole_VN.split([1_500_001, 1_500_000], dim=1)]
    exact_VV = (whole_VN.double() @ whole_VN.double().T).numpy()
    assert np.abs(torch.stack(parts).sum(0).numpy() - exact_VV).max() < 1e-12 * exact_VV.max()


def _case(
    vectors: Sequence[Sequence[float]], settings: MixerConfig, references: Sequence[Reference] = ()
) -> tuple[list[Wanted], Floats, Floats]:
    groups = groups_of(settings, TEACHERS[: len(vectors) - len(references)])
    found = wanted(settings, groups, list(references), bool(references))
    rows = np.asarray(vectors, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return found, rows, rows @ rows.T


def test_a_gradient_that_is_not_finite_is_left_out_of_mix_and_memory() -> None:
    settings = MixerConfig(mode="gradient")
    found, vectors, gram_VV = _case([[1.0, 2.0], [np.nan, 1.0], [3.0, -1.0]], settings)
    decision = decide(found, gram_VV, settings, draw())
    assert decision.bad == ("ben",) and decision.coefficient_V.tolist() == [1.0, 0.0, 1.0]
    mixed_N = combine(torch.tensor(vectors), decision.coefficient_V)
    assert mixed_N.tolist() == [4.0, 1.0]


@pytest.mark.parametrize("solver", ["sum", "pcgrad", "cagrad", "mgda", "nash"])
def test_a_zero_gradient_takes_no_part(solver: str) -> None:
    settings = MixerConfig(mode="gradient", solver=solver)
    found, _, gram_VV = _case([[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]], settings)
    decision = decide(found, gram_VV, settings, draw())
    # Two equal gradients and an absent one: the mix of the two, not of three.
    extra = 1.4 if solver == "cagrad" else 1.0
    assert decision.coefficient_V[1] == 0 and decision.bad == ()
    assert decision.coefficient_V.sum() == pytest.approx(2 * extra)


def test_nothing_usable_makes_a_zero_update() -> None:
    settings = MixerConfig(mode="gradient")
    found, vectors, gram_VV = _case([[np.inf, 0.0], [0.0, 0.0]], settings)
    decision = decide(found, gram_VV, settings, draw())
    assert combine(torch.tensor(vectors), decision.coefficient_V).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("mode", ["loss", "gradient"])
def test_the_guard_takes_out_what_opposes_retention_and_nothing_else(mode: Literal["loss", "gradient"]) -> None:
    settings = MixerConfig(mode=mode, retain=GUARD)
    update, kept = np.array([1.0, -2.0, 0.5]), np.array([0.0, 1.0, 0.0])
    found = [Wanted("all", (0,), updates=True), Wanted("retention", reference="retention")]
    for retention, want in ((kept, [1.0, 0.0, 0.5]), (-kept, update.tolist())):
        vectors = np.stack([update, retention])
        decision = decide(found, vectors @ vectors.T, settings, draw())
        mixed_N = combine(torch.tensor(vectors), decision.coefficient_V)
        assert mixed_N.tolist() == want


def test_with_a_margin_the_update_goes_along_retention() -> None:
    settings = MixerConfig(retain=GUARD | {"margin": 0.5})
    found = [Wanted("all", (0,), updates=True), Wanted("retention", reference="retention")]
    for update, want in (([1.0, -2.0], [1.0, 1.0]), ([1.0, 0.5], [1.0, 1.0]), ([1.0, 3.0], [1.0, 3.0])):
        vectors = np.array([update, [0.0, 2.0]])
        decision = decide(found, vectors @ vectors.T, settings, draw())
        # m.r >= r.r / 2 = 2, that is a second component of at least 1.
        assert combine(torch.tensor(vectors), decision.coefficient_V).tolist() == want


@pytest.mark.parametrize("guard", [True, False])
def test_a_retention_gradient_that_is_not_finite_is_named_when_it_should_guard(guard: bool) -> None:
    settings = MixerConfig(retain=GUARD | {"guard": guard})
    found = [Wanted("all", (0,), updates=True), Wanted("retention batch", reference="retention")]
    vectors = np.array([[1.0, -2.0], [np.nan, 1.0]])
    with np.errstate(invalid="ignore"):
        decision = decide(found, vectors @ vectors.T, settings, draw())
    assert decision.bad == (("retention batch",) if guard else ())
    assert decision.coefficient_V.tolist() == [1.0, 0.0]


def test_without_a_guard_retention_is_only_measured() -> None:
    settings = MixerConfig(retain=WATCH)
    found = [Wanted("all", (0,), updates=True), Wanted("retention", reference="retention")]
    vectors = np.array([[1.0, -2.0], [0.0, 1.0]])
    assert decide(found, vectors @ vectors.T, settings, draw()).coefficient_V.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("mode", ["loss", "gradient"])
def test_instruments_by_hand(mode: Literal["loss", "gradient"]) -> None:
    settings = MixerConfig(mode=mode, retain=WATCH)
    groups = groups_of(settings, TEACHERS[:2])
    found = wanted(settings, groups, ["answer", "retention"], True)
    ada, ben, answer, retention = (np.array(v) for v in ([3.0, 0.0], [-1.0, 2.0], [1.0, 1.0], [-1.0, 0.0]))
    own = [ada, ben] if mode == "gradient" else [ada + ben, ada, ben]
    vectors = np.stack([*own, answer, retention])
    gram_VV = vectors @ vectors.T
    report = diagnose(found, gram_VV, decide(found, gram_VV, settings, draw()).coefficient_V)
    update = ada + ben  # (2, 2)
    assert report["gradient_norm"] == pytest.approx({"ada": 3.0, "ben": 5**0.5})
    assert report["gradient_cosine"] == pytest.approx({"ada | ben": -1 / 5**0.5})
    shares = {"ada": ada @ update / 8, "ben": ben @ update / 8}
    assert report["update_share"] == pytest.approx(shares) == {"ada": 0.75, "ben": 0.25}
    assert report["effective_teachers"] == pytest.approx({"all": 1 / (0.75**2 + 0.25**2)})
    assert report["answer_agreement"] == pytest.approx({"ada": 0.5**0.5, "ben": 1 / 10**0.5, "update": 1.0})
    assert report["retention_agreement"] == pytest.approx({"ada": -1.0, "ben": 1 / 5**0.5, "update": -(0.5**0.5)})


def test_instruments_leave_a_broken_gradient_out() -> None:
    settings = MixerConfig(mode="gradient")
    found, _, gram_VV = _case([[1.0, 0.0], [np.nan, 0.0], [0.0, 2.0]], settings)
    report = diagnose(found, gram_VV, decide(found, gram_VV, settings, draw()).coefficient_V)
    assert report["gradient_norm"] == {"ada": 1.0, "cleo": 2.0}
    assert report["update_share"] == pytest.approx({"ada": 0.2, "cleo": 0.8})
