"""Segment sums and maxima against a loop."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compact_ds.compatibility.segments import maxima, sums

VALUES = st.floats(-1e6, 1e6, allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.lists(VALUES, max_size=4), max_size=6))
def test_sums_and_maxima_equal_a_loop(segments: list[list[float]]) -> None:
    values_R = torch.tensor([v for segment in segments for v in segment], dtype=torch.float64)
    segment_R = torch.tensor([x for x, segment in enumerate(segments) for _ in segment], dtype=torch.int64)
    # fsum is exact; four float64 additions of values up to 1e6 are within 1e-9 of it.
    expected = torch.tensor([math.fsum(segment) for segment in segments], dtype=torch.float64)
    torch.testing.assert_close(sums(values_R, segment_R, len(segments)), expected, rtol=0, atol=1e-9)
    largest = torch.tensor([max(segment, default=-math.inf) for segment in segments], dtype=torch.float64)
    assert torch.equal(maxima(values_R, segment_R, len(segments)), largest)


def test_nan_stays_in_its_segment() -> None:
    values_R, segment_R = torch.tensor([math.nan, 1.0, 2.0, 5.0]), torch.tensor([0, 0, 1, 1])
    for found_X, second in ((sums(values_R, segment_R, 2), 7.0), (maxima(values_R, segment_R, 2), 5.0)):
        assert math.isnan(found_X[0]) and found_X[1] == second
