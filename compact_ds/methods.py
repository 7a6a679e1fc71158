"""The methods that `method:` names: which rationales of an example are trained on, and from metrics to their weights.

Owns the table of methods and what each makes of the settings. The mathematics of the weights is in `compatibility`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from compact_ds.compatibility.running import RunningScales
from compact_ds.compatibility.weights import uniform_weights, weights
from compact_ds.config import METHODS, CompatibilityConfig
from compact_ds.errors import ConfigError, nearest

Coefficient = Literal["alpha", "beta", "gamma"]
COEFFICIENTS: tuple[Coefficient, ...] = ("alpha", "beta", "gamma")

ALONE: dict[str, Coefficient] = {"consensus": "alpha", "adaptability": "beta", "difficulty": "gamma"}
"""Methods that use one metric, and its coefficient."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way to use several teachers; `teacher` is the one that `single:TEACHER` names."""

    name: str
    teacher: str | None = None

    @property
    def uses(self) -> tuple[Coefficient, ...]:
        """Coefficients that may move its weights; none means that the weights are uniform."""
        if self.name in ALONE:
            return (ALONE[self.name],)
        return COEFFICIENTS if self.name == "compact" else ()

    def settings(self, config: CompatibilityConfig) -> CompatibilityConfig:
        """The config with the coefficients that this method does not use at 0.

        A metric that stands alone counts in full: its coefficient says only what share it has in `compact`.
        """
        coefficients: dict[str, float] = {name: 0.0 for name in COEFFICIENTS if name not in self.uses}
        if self.name in ALONE:
            coefficients[ALONE[self.name]] = 1.0
        return config.model_copy(update=coefficients)

    def needs_probes(self, config: CompatibilityConfig) -> bool:
        """Whether adaptability moves its weights, so that the tree must carry probes."""
        return self.settings(config).beta > 0

    def select(self, teachers: Sequence[str], verdicts: Sequence[bool | None], draw: np.random.Generator) -> list[int]:
        """Which rationales of an example the tree holds at this step, as indices in the order of the file.

        `teachers` and `verdicts` belong to the example's rationales. The result is empty where the method has nothing
        to learn from: the single teacher did not answer, or no rationale is right by the file.
        """
        if self.name == "single":
            return [i for i, teacher in enumerate(teachers) if teacher == self.teacher]
        if self.name == "best_of":
            return [i for i, verdict in enumerate(verdicts) if verdict]
        if self.name == "first" and len(teachers) > 0:
            return [int(draw.integers(len(teachers)))]
        return list(range(len(teachers)))

    def weigh(
        self,
        metrics_MR: Tensor,
        example_R: Tensor,
        teacher_R: Tensor,
        num_examples: int,
        scales: RunningScales,
        settings: CompatibilityConfig,
        step: int,
    ) -> Tensor:
        """w of every rationale, fp32, [R]; arguments as in `compatibility.weights`, with this method's `settings`."""
        if not self.uses:
            return uniform_weights(example_R, teacher_R, num_examples)
        return weights(metrics_MR, example_R, teacher_R, num_examples, scales, settings, step)


def method(name: str) -> Method:
    """The method of that name, `single:TEACHER` included. Raises ConfigError for an unknown one."""
    kind, _, teacher = name.partition(":")
    if kind == "single" and teacher:
        return Method("single", teacher)
    if name not in METHODS:
        raise ConfigError("method", name, "a method", nearest(name, (*METHODS, "single:TEACHER")))
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
