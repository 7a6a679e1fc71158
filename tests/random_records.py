"""Random records for tests of trees: any number of rationales, steps and probes."""

import numpy as np

from compact_ds.tree.tokenise import RationaleTokens, Record

VOCABULARY = 61


def record(rng: np.random.Generator, num_rationales: int, name: str = "r") -> Record:
    """A record of random ids; step ends may coincide and a rationale may have no step."""

    def ids(low: int, high: int) -> np.ndarray:
        return rng.integers(0, VOCABULARY, int(rng.integers(low, high))).astype(np.int32)

    rationales = []
    for teacher in range(num_rationales):
        tokens = ids(3, 15)
        ends = np.sort(rng.integers(1, len(tokens), int(rng.integers(0, 5)))).astype(np.int32)
        rationales.append(RationaleTokens(teacher, tokens, ends, 0.5, -1, 1))
    return Record(name, f"{name}:1", ids(1, 7), ids(3, 6), 2, tuple(rationales))
