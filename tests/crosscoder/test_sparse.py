"""Sparse products and selections against dense references."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.crosscoder.sparse import Pattern, decode_from, encode_at
from rlgen.crosscoder.sparsity import batch_topk


def some_codes(seed: int, batch: int, features: int, density: float) -> tuple[torch.Tensor, Pattern]:
    random = torch.Generator().manual_seed(seed)
    codes_BF = torch.rand(batch, features, generator=random, dtype=torch.float64)
    codes_BF = codes_BF * (torch.rand(batch, features, generator=random) < density)
    rows_N, columns_N = codes_BF.nonzero().unbind(dim=1)
    return codes_BF, Pattern(rows_N, columns_N, (batch, features))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 999), batch=st.integers(1, 9), features=st.integers(1, 9), density=st.sampled_from([0, 0.2, 1])
)
def test_products_equal_dense_ones(seed: int, batch: int, features: int, density: float) -> None:
    codes_BF, pattern = some_codes(seed, batch, features, density)
    values_N = codes_BF[pattern.rows_N, pattern.columns_N]
    matrix_FI, matrix_BI = torch.randn(features, 4).double(), torch.randn(batch, 4).double()
    assert torch.allclose(pattern.times(values_N, matrix_FI), codes_BF @ matrix_FI)
    assert torch.allclose(pattern.transposed_times(values_N, matrix_BI), codes_BF.T @ matrix_BI)
    dots_BF = matrix_BI @ matrix_FI.T
    assert torch.allclose(pattern.dots(matrix_BI, matrix_FI), dots_BF[pattern.rows_N, pattern.columns_N])


def test_gradients_equal_dense_ones() -> None:
    codes_BF, pattern = some_codes(0, 6, 5, 0.4)
    x_BI = torch.randn(6, 4).double()
    W_IF, b_F, W_FI = (torch.randn(*shape).double().requires_grad_() for shape in ((4, 5), (5,), (5, 4)))
    weights_BI = torch.randn(6, 4).double()

    values_N = (x_BI @ W_IF + b_F).detach()[pattern.rows_N, pattern.columns_N]
    sparse_BI = decode_from(encode_at(x_BI, W_IF, b_F, values_N, pattern), W_FI, pattern)
    dense_BI = ((x_BI @ W_IF + b_F) * (codes_BF > 0)) @ W_FI
    assert torch.allclose(sparse_BI, dense_BI)
    found = torch.autograd.grad((sparse_BI * weights_BI).sum(), (W_IF, b_F, W_FI))
    expected = torch.autograd.grad((dense_BI * weights_BI).sum(), (W_IF, b_F, W_FI))
    assert all(map(torch.allclose, found, expected))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 999),
    batch=st.integers(1, 9),
    features=st.integers(1, 20),
    k=st.integers(1, 12),
    guess=st.sampled_from([0.0, 0.5, 1.0, 99.0]),
)
def test_batch_topk_takes_the_largest_whatever_the_guess(
    seed: int, batch: int, features: int, k: int, guess: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    scores_BF = torch.randn(batch, features, generator=random).relu()
    pattern, limit = batch_topk(scores_BF, k, guess)
    ordered = scores_BF.flatten().sort(descending=True).values
    expected = ordered[: batch * k]
    expected = expected[expected > 0]
    found_N = scores_BF[pattern.rows_N, pattern.columns_N]
    assert torch.equal(found_N.sort(descending=True).values, expected)
    assert float(limit) == (float(expected[-1]) if len(expected) else 0.0)
    places = (pattern.rows_N * features + pattern.columns_N).tolist()
    assert places == sorted(set(places))


@pytest.mark.parametrize("k", [1, 3])
def test_batch_topk_shares_its_budget_over_the_batch(k: int) -> None:
    scores_BF = torch.zeros(4, 20)
    scores_BF[2] = torch.arange(20) + 1.0
    pattern, _ = batch_topk(scores_BF, k)
    assert pattern.rows_N.tolist() == [2] * 4 * k
