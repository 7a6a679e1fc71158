"""The methods that `method:` names: which rationales of an example are trained on, and from metrics to their weights.

Owns the table of methods and what each makes of the settings. The mathematics of the weights is in `compatibility`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from compact_ds.compatibility.running import RunningScales
from compact_ds.compatibility.weights import uniform_weights, weights
from compact_ds.errors import ConfigError, nearest
from compact_ds.methods.baselines import confidence_weights, lowest_rank_ratio, token_weights
from compact_ds.methods.evidence import Evidence
from compact_ds.plugins import Registry, added
from compact_ds.sections import METHODS, CompatibilityConfig

Coefficient = Literal["alpha", "beta", "gamma"]
COEFFICIENTS: tuple[Coefficient, ...] = ("alpha", "beta", "gamma")

ALONE: dict[str, Coefficient] = {"consensus": "alpha", "adaptability": "beta", "difficulty": "gamma"}
"""Methods that use one metric, and its coefficient."""

WITHOUT: dict[str, Coefficient] = {f"compact_without_{metric}": name for metric, name in ALONE.items()}
"""Methods that use all metrics but one, and its coefficient."""

SHARES: dict[str, Callable[[Evidence], Tensor]] = {
    "union": token_weights,
    "confidence": confidence_weights,
    "rsr": lowest_rank_ratio,
}
"""Methods that weigh by a formula of `baselines`."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What the file says of a rationale, none of which a weight may see: `verdict` is its `is_correct`, None when it has none.

    `answer_right`: the teacher's own answer is the gold one; `votes`: how many teachers of the example give this answer.
    """

    teacher: str
    verdict: bool | None = None
    answer_right: bool = False
    votes: int = 0


@dataclass(frozen=True, slots=True)
class Method:
    """One way to use several teachers; `teacher` is the one that `single:TEACHER` names."""

    name: str
    teacher: str | None = None

    @property
    def uses(self) -> tuple[Coefficient, ...]:
        """Coefficients that may move its weights; none means that the metrics do not, and that no probe is needed.

        All of them for a method of the user's own that overrides `weigh`, unless it overrides this too.
        """
        if self.name in ALONE:
            return (ALONE[self.name],)
        if self.name in WITHOUT:
            return tuple(name for name in COEFFICIENTS if name != WITHOUT[self.name])
        return COEFFICIENTS if self.name == "compact" or type(self).weigh is not Method.weigh else ()

    def settings(self, config: CompatibilityConfig) -> CompatibilityConfig:
        """The config with the coefficients that this method does not use at 0.

        A metric that stands alone counts in full: its coefficient says only what share it has in `compact`.
        """
        coefficients: dict[str, Any] = {name: 0.0 for name in COEFFICIENTS if name not in self.uses}
        if self.name in ALONE:
            coefficients |= {ALONE[self.name]: 1.0, "added": dict.fromkeys(config.added, 0.0)}
        return config.model_copy(update=coefficients)

    def probes(self, config: CompatibilityConfig, most: int) -> int:
        """How many probes a rationale needs in training, at most `most`: none where adaptability moves no weight.

        The total gain is told by the last probe alone; those before it are for jumps.
        """
        settings = self.settings(config)
        if settings.beta == 0:
            return 0
        return 1 if settings.adaptability == "total" else most

    @property
    def ranks_targets(self) -> bool:
        """Whether it weighs by the ranks of the rationales' tokens."""
        return self.name == "rsr"

    def select(self, rationales: Sequence[Labels], draw: np.random.Generator) -> list[int]:
        """Which rationales of an example the tree holds at this step, as indices in the order of the file.

        The result is empty where the method has nothing to learn from: the single teacher did not answer, no rationale is
        right, or no answer has a vote.
        """
        if self.name == "single":
            return [i for i, one in enumerate(rationales) if one.teacher == self.teacher]
        if self.name == "best_of":
            return [i for i, one in enumerate(rationales) if one.verdict]
        if self.name == "verified":
            return [i for i, one in enumerate(rationales) if one.answer_right]
        if self.name == "majority":
            most = max((one.votes for one in rationales), default=0)
            return [i for i, one in enumerate(rationales) if most and one.votes == most]
        if self.name == "first" and len(rationales) > 0:
            return [int(draw.integers(len(rationales)))]
        return list(range(len(rationales)))

    def selectable(
        self, label: Callable[[str], npt.NDArray[np.int32]], teachers: Sequence[str]
    ) -> npt.NDArray[np.bool_]:
        """Which rationales of a whole file `select` may choose where they fit, by the labels' columns of the cache.

        An example is of use exactly when it has one: `select` is then not empty, at any step. Override both together.
        """
        if self.name == "single":
            wanted = teachers.index(self.teacher) if self.teacher in teachers else -1
            return np.equal(label("teacher"), wanted)
        named = {"majority": "votes", "best_of": "verdict", "verified": "answer_right"}.get(self.name)
        return np.ones(len(label("teacher")), dtype=np.bool_) if named is None else np.greater(label(named), 0)

    def weigh(self, evidence: Evidence, scales: RunningScales, settings: CompatibilityConfig, step: int) -> Tensor:
        """w of every rationale, fp32, [R], under this method's `settings` at optimizer step `step`."""
        if self.name in SHARES:
            return SHARES[self.name](evidence)
        places = (evidence.example_R, evidence.teacher_R, evidence.num_examples)
        if not self.uses:
            return uniform_weights(*places)
        return weights(evidence.metrics_MR, *places, scales, settings, step)


_ADDED: Registry[Method] = Registry("method", METHODS)


def add_method(method: Method) -> None:
    """Make a method of yours known by its name: an instance of a subclass of `Method` that overrides `weigh` or `select`.

    What `weigh` returns must sum to 1 over each example. Raises ConfigError for a name that is taken.
    """
    _ADDED.add(method.name, method)


def method(name: str) -> Method:
    """The method of that name, `single:TEACHER` included. Raises ConfigError for an unknown one."""
    if (own := _ADDED.get(name)) is not None:
        return own
    kind, _, teacher = name.partition(":")
    if kind == "single" and teacher:
        return Method("single", teacher)
    if name not in METHODS:
        raise ConfigError("method", name, "a method", nearest(name, (*METHODS, *added("method"), "single:TEACHER")))
    return Method(name)


def check(method: Method, teachers: Sequence[str], has_verdicts: bool) -> None:
    """Refuse, before a run starts, a method that the data cannot serve. Raises ConfigError.

    `teachers` are all teachers of the data; `has_verdicts` says whether any rationale carries `is_correct`.
    """
    if method.teacher is not None and method.teacher not in teachers:
        raise ConfigError(
            "method", f"single:{method.teacher}", "a teacher of the data", nearest(method.teacher, teachers)
        )
    if method.name == "best_of" and not has_verdicts:
        remedy = "give is_correct in data.train, or use a method without an oracle"
        raise ConfigError("method", "best_of", "data whose rationales carry is_correct", remedy)
