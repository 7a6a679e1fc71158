"""Hashes of frozen parameters, against hashlib's own of the same bytes."""

import hashlib

import torch
from torch import nn

from compact_ds.engine.frozen import differing, frozen_hashes


def test_a_frozen_parameter_is_hashed_by_type_shape_and_bytes_and_a_trained_one_is_not() -> None:
    module = nn.Linear(3, 2, dtype=torch.bfloat16)
    module.weight.requires_grad_(False)
    data = module.weight.detach().view(torch.uint8).numpy().tobytes()
    assert frozen_hashes(module) == {"weight": hashlib.sha256(b"torch.bfloat16 (2, 3)" + data).hexdigest()}


def test_one_changed_bit_or_a_parameter_more_is_told() -> None:
    module = nn.Linear(3, 2).requires_grad_(False)
    was = frozen_hashes(module)
    assert differing(was, frozen_hashes(module)) == []
    with torch.no_grad():
        module.weight[1, 2] = torch.nextafter(module.weight[1, 2], torch.tensor(9.0))
    assert differing(was, frozen_hashes(module)) == ["weight"]
    assert differing(was, {"bias": was["bias"]}) == ["weight"]
    assert differing({}, was) == ["bias", "weight"]
