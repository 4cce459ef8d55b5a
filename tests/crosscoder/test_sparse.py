"""Sparse products and selections against dense references."""

import os
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.crosscoder import sparse
from rlgen.crosscoder.encoder import Encoder
from rlgen.crosscoder.kernels import cpu, gpu
from rlgen.crosscoder.mesh import ALONE
from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig
from rlgen.crosscoder.sparse import Pattern, decode_from, encode_at
from rlgen.crosscoder.sparsity import BatchTopK
from rlgen.study.sections import Crosscoder as Settings


def some_codes(seed: int, batch: int, features: int, density: float) -> tuple[torch.Tensor, Pattern]:
    random = torch.Generator().manual_seed(seed)
    codes_BF = torch.rand(batch, features, generator=random, dtype=torch.float64)
    codes_BF = codes_BF * (torch.rand(batch, features, generator=random) < density)
    return codes_BF, Pattern.of(codes_BF)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 999),
    batch=st.integers(1, 9),
    features=st.integers(1, 9),
    density=st.sampled_from([0, 0.2, 1]),
    kernels=st.sampled_from([cpu, gpu]),
    dense=st.booleans(),
)
def test_products_equal_dense_ones(
    seed: int, batch: int, features: int, density: float, kernels: ModuleType, dense: bool
) -> None:
    codes_BF, pattern = some_codes(seed, batch, features, density)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "kernels_for", lambda _: kernels)
        patch.setattr(sparse, "DENSE", -1.0 if dense else 1.0)
        check_products(codes_BF, pattern)


def check_products(codes_BF: torch.Tensor, pattern: Pattern) -> None:
    batch, features = codes_BF.shape
    values_N = codes_BF[pattern.rows_N, pattern.columns_N]
    matrix_FI, matrix_BI = torch.randn(features, 5).double(), torch.randn(batch, 5).double()
    assert torch.allclose(pattern.times(values_N, matrix_FI), codes_BF @ matrix_FI)
    assert torch.allclose(pattern.transposed_times(values_N, matrix_BI), codes_BF.T @ matrix_BI)
    before_FI = torch.randn(features, 5).double()
    added_FI = pattern.transposed_times(values_N, matrix_BI, before_FI.clone())
    assert torch.allclose(added_FI, before_FI + codes_BF.T @ matrix_BI)
    dots_BF = matrix_BI @ matrix_FI.T
    assert torch.allclose(pattern.dots(matrix_BI, matrix_FI), dots_BF[pattern.rows_N, pattern.columns_N])


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), batch=st.integers(1, 9), features=st.integers(1, 150), share=st.floats(0, 1))
def test_a_part_of_a_pattern(seed: int, batch: int, features: int, share: float) -> None:
    codes_BF, pattern = some_codes(seed, batch, features, 0.4)
    kept_N = torch.rand(len(pattern)) < share
    rows_N, columns_N = pattern.rows_N[kept_N], pattern.columns_N[kept_N]
    part = pattern.keep(kept_N)
    assert torch.equal(part.rows_N, rows_N)
    assert torch.equal(part.columns_N, columns_N)
    assert torch.equal(codes_BF.nonzero()[:, 0], pattern.rows_N)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 999),
    batch=st.integers(1, 5),
    features=st.integers(1, 200),
    floor=st.sampled_from([-torch.inf, -1.0, -1e-3, 0.0, 0.3, 2.0, torch.inf]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]),
    kernels=st.sampled_from([cpu, gpu]),
)
def test_what_is_above_a_floor(
    seed: int, batch: int, features: int, floor: float, dtype: torch.dtype, kernels: ModuleType
) -> None:
    random = torch.Generator().manual_seed(seed)
    pre_BF = torch.randn(batch, features, generator=random).to(dtype)
    floor_F = (
        floor + 0.1 * torch.randn(features, generator=random) if abs(floor) < 9 else torch.full((features,), floor)
    )
    ends_B1, columns_N = kernels.above(pre_BF, floor_F)
    found_BF = torch.zeros(batch, features, dtype=torch.bool)
    found_BF[Pattern(ends_B1, columns_N, features).rows_N, columns_N] = True
    assert int(found_BF.sum()) == len(columns_N) == int(ends_B1[-1])
    above_BF = pre_BF.double() > floor_F.double()
    assert (found_BF | ~above_BF).all(), "one is missed"
    near_BF = pre_BF.double() >= floor_F.double() - 2**-7 * floor_F.double().abs()
    assert (near_BF | ~found_BF).all(), "one is too low"
    if dtype != torch.bfloat16:
        assert torch.equal(found_BF, pre_BF > floor_F.to(dtype))


def test_gradients_equal_dense_ones() -> None:
    codes_BF, pattern = some_codes(0, 6, 5, 0.4)
    x_BI = torch.randn(6, 4).double()
    We_FI, b_F, Wd_FI = (torch.randn(*shape).double().requires_grad_() for shape in ((5, 4), (5,), (5, 4)))
    weights_BI = torch.randn(6, 4).double()
    values_N = (x_BI @ We_FI.T + b_F).detach()[pattern.rows_N, pattern.columns_N]
    sparse_BI = decode_from(encode_at(values_N, x_BI, We_FI, b_F, pattern), Wd_FI, pattern)
    dense_BI = ((x_BI @ We_FI.T + b_F) * (codes_BF > 0)) @ Wd_FI
    assert torch.allclose(sparse_BI, dense_BI)
    expected = torch.autograd.grad((dense_BI * weights_BI).sum(), (We_FI, b_F, Wd_FI))
    (sparse_BI * weights_BI).sum().backward()
    for parameter, grad in zip((We_FI, b_F, Wd_FI), expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, grad)


def encoder_of(pre_BF: torch.Tensor) -> Encoder:
    """One whose pre-activations are given."""
    batch, features = pre_BF.shape
    crosscoder = Crosscoder(CrosscoderConfig(["base"], batch, features, "batch_topk", 1, layer=1)).double()
    with torch.no_grad():
        crosscoder.W_enc.copy_(pre_BF.T[:, None])
        crosscoder.W_dec.fill_(batch**-0.5)
    encoder = Encoder(crosscoder)
    encoder.read(torch.eye(batch).double())
    return encoder


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 999),
    batch=st.integers(1, 9),
    features=st.integers(1, 90),
    k=st.integers(1, 12),
    guess=st.sampled_from([None, 0.0, 0.5, 1.0, 99.0]),
    eligible=st.sampled_from([0.1, 1.0]),
)
def test_batch_topk_takes_the_highest_whatever_the_guess(
    seed: int, batch: int, features: int, k: int, guess: float | None, eligible: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    pre_BF = torch.randn(batch, features, generator=random).double()
    weight_F = (0.5 + torch.rand(features, generator=random)) * (torch.rand(features, generator=random) < eligible)
    sparsity = BatchTopK(Settings(models=["base", "rl"], k=k), ALONE)
    sparsity.guesses = {} if guess is None else {"all": guess}
    found = sparsity.highest("all", encoder_of(pre_BF), weight_F.double(), batch * k)
    scores_BF = pre_BF.relu() * weight_F
    expected = scores_BF.flatten().sort(descending=True).values[: batch * k]
    expected = expected[expected > 0]
    rows_N, columns_N = found.pattern.rows_N, found.pattern.columns_N
    assert torch.allclose(scores_BF[rows_N, columns_N].sort(descending=True).values, expected)
    assert torch.allclose(found.codes_N, pre_BF[rows_N, columns_N])
    assert found.limit is not None
    assert float(found.limit) == pytest.approx(float(expected[-1]) if len(expected) else 0.0)


@pytest.mark.parametrize("k", [1, 3])
def test_batch_topk_shares_its_budget_over_the_batch(k: int) -> None:
    pre_BF = torch.zeros(4, 20).double()
    pre_BF[2] = torch.arange(20) + 1.0
    found = BatchTopK(Settings(models=["base", "rl"], k=k), ALONE)(
        encoder_of(pre_BF), torch.ones(20).double(), tokens=4, warm=1.0
    )
    assert found.pattern.rows_N.tolist() == [2] * 4 * k


def test_a_job_of_one_thread_stays_one() -> None:
    """Two such jobs share two cores; with a second thread each, they wait for one another at every product."""
    code = """
import torch
from rlgen.crosscoder.sparse import Pattern
codes_BF = torch.eye(64)
Pattern.of(codes_BF).times(torch.ones(64), torch.ones(64, 3))
print(torch.get_num_threads())
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert found.stdout.strip() == "1"
