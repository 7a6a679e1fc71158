"""Settings of `compatibility`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from compact_ds.errors import ConfigError, nearest
from compact_ds.plugins import added
from compact_ds.sections.section import Section


class CompatibilityConfig(Section):
    """From the three metrics to a weight: w = softmax((alpha C + beta A - gamma D) / tau), mixed with a floor."""

    alpha: float = Field(0.3, ge=0)
    """Weight of consensus C in `compact`. 0 switches it off."""
    beta: float = Field(1.0, ge=0)
    """Weight of adaptability A in `compact`. 0 switches it off, and the probes with it."""
    gamma: float = Field(0.1, ge=0)
    """Weight of difficulty D in `compact`. 0 switches it off."""
    tau: float = Field(0.3, gt=0)
    """Temperature of the softmax; lower is sharper."""
    floor: float = Field(0.0, ge=0, le=1)
    """Share of every weight that stays uniform."""
    warmup: int = Field(20, ge=0)
    """Optimizer steps with uniform weights while the running scales settle."""
    decay: float = Field(0.95, ge=0, lt=1)
    """Decay per step of the running scales and the running mean loss."""
    adaptability: Literal["total", "jump", "mix"] = "total"
    """`total`: PMI after the last step; `jump`: its largest rise between probes; `mix`: their mean."""
    difficulty: Literal["above", "zone"] = "above"
    """`above`: nats per token over the running mean loss; `zone`: distance from `zone` above it."""
    added: dict[str, float] = Field(default_factory=dict)
    """Metrics that an extension registered, by name, with their coefficients in `compact` and its ablations, where they join
    alpha C + beta A - gamma D, standardised as those are."""
    zone: float = 0.0
    """Centre of the preferred zone, in nats per token above the running mean loss."""

    @field_validator("added")
    @classmethod
    def _are_known(cls, coefficients: dict[str, float]) -> dict[str, float]:
        for name in coefficients:
            if name not in added("metric"):
                expected = "a metric that a module of `extensions` registered"
                raise ConfigError("compatibility.added", name, expected, nearest(name, added("metric")))
        return coefficients
