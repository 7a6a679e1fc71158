"""What a user's own module adds: a metric, a solver and a method; `extensions: [length_extension]` names it."""

import numpy as np
from torch import Tensor

from compact_ds.compatibility.running import RunningScales
from compact_ds.compatibility.segments import sums
from compact_ds.methods import Method, add_method, add_metric
from compact_ds.methods.evidence import Evidence
from compact_ds.mixer.surgery import add_solver
from compact_ds.sections import CompatibilityConfig


class ByLength(Method):
    """Short rationales count for more: shares proportional to one over the number of tokens."""

    def weigh(self, evidence: Evidence, scales: RunningScales, settings: CompatibilityConfig, step: int) -> Tensor:
        share_R = 1 / evidence.tokens_R.double()
        return (share_R / sums(share_R, evidence.example_R, evidence.num_examples)[evidence.example_R]).float()


add_method(ByLength("by_length"))
add_metric("length", lambda evidence: evidence.tokens_R / 10)
add_solver("plain_mean", lambda gram_KK, draw, radius: np.full(len(gram_KK), 1 / len(gram_KK)))
