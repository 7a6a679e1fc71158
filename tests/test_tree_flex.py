"""Tree attention by FlexAttention: its blocks and values against parents, programs counted, gradients against SDPA on a GPU.

Without a GPU the call runs as torch traces it, operator by operator; what inductor makes of it needs one (`-m gpu`).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from random_records import VOCABULARY
from random_trees import Parents, ancestors, forest, naive_attention, queries_keys_values
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from transformers import AutoConfig, AutoModelForCausalLM

from compact_ds.kernels import tree_attention as kernel
from compact_ds.kernels import tree_flex
from compact_ds.kernels.tree_attention import Ancestry, tree_attention
from compact_ds.student import attention, prefix

# fp32 over at most a few hundred ancestors; measured 1e-6.
TOLERANCE = 1e-5


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """The compiled call without code generation, with an empty store of programs; gives a function that counts them."""
    torch._dynamo.reset()
    programs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        programs.append(graph)
        return graph

    compiled = torch.compile(flex_attention, dynamic=True, fullgraph=True, backend=backend)
    monkeypatch.setattr(tree_flex, "_compiled", lambda: compiled)
    yield lambda: len(programs)
    torch._dynamo.reset()


def _seen(parents: Sequence[Parents], num_trunk: int, probes: bool, window: int | None) -> Tensor:
    """Bool [B, Q, K] by walking up from each query."""
    length = len(parents[0])
    sees = torch.zeros(len(parents), length, length, dtype=torch.bool)
    for b, row in enumerate(parents):
        for token in range(length):
            sees[b, token, ancestors(row, token, window)] = True
    return sees[:, num_trunk:] if probes else sees[:, :num_trunk, :num_trunk]


def _blocks(counts_B1M: Tensor | None, indices_B1MN: Tensor | None) -> Tensor:
    """Bool [B, M, N] of the listed blocks."""
    assert counts_B1M is not None and indices_B1MN is not None
    listed = torch.zeros(indices_B1MN[:, 0].shape, dtype=torch.bool)
    for b, m in torch.cartesian_prod(*(torch.arange(n) for n in listed.shape[:2])).tolist():
        listed[b, m, indices_B1MN[b, 0, m, : counts_B1M[b, 0, m]].long()] = True
    return listed


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("probes", [False, True])
@pytest.mark.parametrize(("length", "num_trunk", "in_order"), [(700, 530, True), (400, 256, False), (60, 50, True)])
def test_blocks_hold_every_pair_that_sees(
    length: int, num_trunk: int, in_order: bool, probes: bool, window: int | None
) -> None:
    parents, tree = forest(5, 2, length, num_trunk, in_order)
    want = _seen(parents, num_trunk, probes, window)
    mask = tree.blocks(window, probes)
    row, query, key = (
        torch.arange(n).view(s) for n, s in zip(want.shape, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
    )
    assert torch.equal(mask.mask_mod(row, torch.tensor(0), query, key), want)
    exact = create_block_mask(lambda b, h, q, k: want[b, q, k], 2, None, want.shape[1], want.shape[2], device="cpu")
    part = _blocks(mask.kv_num_blocks, mask.kv_indices)
    full = _blocks(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert not (part & full).any()
    size = exact.kv_indices.shape[2:]
    inside = slice(None), slice(size[0]), slice(size[1])
    needed = _blocks(exact.kv_num_blocks, exact.kv_indices), _blocks(exact.full_kv_num_blocks, exact.full_kv_indices)
    # A block taken for fully seen must be so; one that holds anything must be listed.
    assert not (full[inside] & ~needed[1]).any()
    assert not ((needed[0] | needed[1]) & ~(part | full)[inside]).any()
    if in_order and window is None and not probes:
        assert torch.equal((part | full)[inside], needed[0] | needed[1])


@pytest.mark.parametrize(("rows", "length", "num_trunk"), [(2, 200, 150), (1, 129, 129), (3, 40, 30)])
@pytest.mark.parametrize(
    ("window", "softcap", "scale", "groups"), [(None, None, None, 4), (9, None, 0.7, 2), (30, 2.0, 0.3, 1)]
)
def test_values_equal_a_loop_over_ancestors_and_sdpa(
    traced: Callable[[], int],
    rows: int,
    length: int,
    num_trunk: int,
    window: int | None,
    softcap: float | None,
    scale: float | None,
    groups: int,
) -> None:
    torch.manual_seed(0)
    parents, tree = forest(6, rows, length, num_trunk)
    query, key, value = queries_keys_values(rows, 4, groups, length, 16)
    options: dict[str, Any] = {"scale": scale, "window": window, "softcap": softcap}
    with torch.no_grad():
        got = tree_attention(query, key, value, tree, "flex", **options)
        dense = tree_attention(query, key, value, tree, "sdpa", **options)
        want = naive_attention(query.double(), key.double(), value.double(), parents, num_trunk, **options)
    torch.testing.assert_close(got.double(), want, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(got, dense, atol=TOLERANCE, rtol=0)


def test_no_dense_mask_is_made(traced: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "ancestor_mask", None)
    _, tree = forest(7, 2, 300, 200)
    with torch.no_grad():
        tree_attention(*queries_keys_values(2, 2, 1, 300, 16), tree, "flex", window=5)
    assert not tree._dense
    largest = max(x.numel() for x in tree.blocks(5, False).as_tuple() if isinstance(x, torch.Tensor))
    assert largest <= 2 * 2 * 2


# Rows equal to heads (4), to key heads (2) and to numbers of blocks; rows without probes; rows shorter than a block.
SHAPES = [
    (4, 512, 400),
    (2, 300, 250),
    (3, 700, 700),
    (5, 257, 256),
    (6, 70, 40),
    (2, 130, 129),
    (7, 129, 100),
    (4, 1100, 1024),
]


@pytest.mark.parametrize("first", [0, 2, 4])
def test_a_new_length_or_number_of_rows_compiles_nothing(traced: Callable[[], int], first: int) -> None:
    shapes = SHAPES[first:] + SHAPES[:first]
    with torch.no_grad():
        for i, (rows, length, num_trunk) in enumerate(shapes):
            tree = forest(i, rows, length, num_trunk, in_order=True)[1]
            inputs = queries_keys_values(rows, 4, 2, length, 16)
            # Strides differ from family to family: as projected, or in memory order after rotary embedding.
            query, key, value = (x.contiguous() if i % 2 else x for x in inputs)
            tree_attention(query, key, value, tree, "flex")
        assert traced() == 1


def test_a_single_row_and_a_window_have_programs_of_their_own(traced: Callable[[], int]) -> None:
    with torch.no_grad():
        for rows, length, window in [(1, 300, 7), (1, 450, 30), (1, 60, 8), (3, 300, 7), (5, 200, 40), (1, 130, 9)]:
            tree = forest(9, rows, length, length - 20)[1]
            tree_attention(*queries_keys_values(rows, 4, 2, length, 16), tree, "flex", window=window)
        assert traced() == 2
        tree_attention(*queries_keys_values(2, 4, 2, 300, 16), forest(9, 2, 300, 200)[1], "flex")
        assert traced() == 3


def test_a_whole_model_gives_what_sdpa_gives(traced: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gemma2", vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=6, query_pre_attn_scalar=8, pad_token_id=0,
    )  # fmt: skip
    lm = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    ids = torch.randint(VOCABULARY, (2, 150))
    _, tree = forest(8, 2, 150, 120)
    outputs = []
    for backend in ("sdpa", "flex"):
        student, tree_pass = copy.deepcopy(lm), prefix.TreePass()
        attention.install(student, tree_pass, "auto")
        monkeypatch.setattr(attention, "choose", lambda *_, chosen=backend: chosen)
        tree_pass.begin(tree)
        with torch.no_grad():
            outputs.append(student(input_ids=ids, position_ids=tree.positions_BL, use_cache=False).logits)
    torch.testing.assert_close(outputs[1], outputs[0], atol=TOLERANCE, rtol=0)
    # Both layers, each for the trunk and the probes: the full and the windowed program serve all four calls.
    assert traced() == 2


def _on_gpu(tree: Ancestry) -> Ancestry:
    return Ancestry(tree.order_BL.cuda(), tree.end_BL.cuda(), tree.positions_BL.cuda(), tree.num_trunk)


# Relative, in norm: fp32 in full precision over some hundred ancestors; bf16 rounds weights and outputs at 4e-3.
PRECISIONS = [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)]


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("length", "num_trunk"), [(900, 700), (256, 256), (100, 60)])
@pytest.mark.parametrize(
    ("rows", "window", "softcap", "size"), [(2, None, None, 64), (1, 40, None, 128), (3, 40, 5.0, 80)]
)
def test_gradients_on_a_gpu_equal_sdpa_in_float64(
    rows: int,
    length: int,
    num_trunk: int,
    window: int | None,
    softcap: float | None,
    size: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    torch.manual_seed(0)
    _, tree = forest(10, rows, length, num_trunk, in_order=True)
    tree = _on_gpu(tree)
    inputs = queries_keys_values(rows, 4, 2, length, size, device="cuda", dtype=dtype)
    query, key, value = (x.requires_grad_() for x in inputs)
    doubles = tuple(x.detach().double().requires_grad_() for x in inputs)
    upstream = torch.randn_like(query)
    got = tree_attention(query, key, value, tree, "flex", window=window, softcap=softcap)
    # The dense softmax with a cap goes through fp32, which is far below either tolerance.
    query, key, value = doubles
    want = tree_attention(query, key, value, tree, "sdpa", window=window, softcap=softcap)
    assert got.dtype == dtype and (got - want).norm() <= tolerance * want.norm()
    gradients = torch.autograd.grad((got * upstream).sum(), inputs)
    for mine, theirs in zip(gradients, torch.autograd.grad((want * upstream).sum(), doubles), strict=True):
        assert (mine - theirs).norm() <= tolerance * theirs.norm()
        assert not mine[:, :, num_trunk:].any()


@pytest.mark.gpu
def test_on_a_gpu_a_new_shape_compiles_nothing_and_no_mask_is_stored() -> None:
    def step(rows: int, length: int, num_trunk: int) -> None:
        tree = _on_gpu(forest(11, rows, length, num_trunk, in_order=True)[1])
        shape = queries_keys_values(rows, 4, 2, length, 64, device="cuda", dtype=torch.bfloat16)
        query, key, value = (x.requires_grad_() for x in shape)
        tree_attention(query, key, value, tree, "flex").sum().backward()

    step(4, 1100, 1000)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows, length, num_trunk in [(2, 300, 200), (3, 90, 60), (2, 16384, 15000)]:
            step(rows, length, num_trunk)
    # A dense mask of the last step would take 512 MiB, its queries take 16.
    assert torch.cuda.max_memory_allocated() - before < 2 * 16384**2
