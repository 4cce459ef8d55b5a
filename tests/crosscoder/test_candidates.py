"""Whichever way a GPU finds candidates: what is found and what a fit computes, by Triton's interpreter."""

import logging
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlgen.activations.joined import join
from rlgen.activations.store import group_parts
from rlgen.crosscoder import candidates, encoder, sparse
from rlgen.crosscoder.candidates import MeasuredCandidates, Way
from rlgen.crosscoder.kernels import fused, gpu
from rlgen.crosscoder.sparse import Pattern
from rlgen.crosscoder.trainer import Trainer
from rlgen.study.sections import Crosscoder as Section
from rlgen.study.stages import FitSettings
from tests.crosscoder.world import make_world

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WAYS = ["dense product", *(f"fused kernel {tile.rows}x{tile.columns}" for tile in fused.TILES)]


class Forced(MeasuredCandidates):
    """By one way after another of the test's choice."""

    names = cycle(WAYS)

    def _way(self, low_F: Tensor) -> Way:
        return self.ways()[next(self.names)]


def whole_numbers(seed: int, rows: int, width: int) -> Tensor:
    """Small enough that sums of their products are exact, in whatever order."""
    return torch.randint(-8, 9, (rows, width), generator=torch.Generator().manual_seed(seed)).float().to(DEVICE)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    batch=st.sampled_from([1, 5, 64, 65, 130]),
    features=st.sampled_from([1, 31, 32, 33, 128, 257, 300]),
    width=st.sampled_from([1, 3, 64, 65, 130]),
    floor=st.sampled_from([-torch.inf, -20.0, 0.0, 20.0, 1e4, torch.inf, "mixed"]),
    tile=st.sampled_from(fused.TILES),
)
def test_the_fused_kernel_selects_what_the_product_has_above_the_floor(
    seed: int, batch: int, features: int, width: int, floor: float | str, tile: fused.Tile
) -> None:
    x_BI, W_FI = whole_numbers(seed, batch, width), whole_numbers(seed + 1, features, width)
    floor_F = whole_numbers(seed + 2, features, 1)[:, 0]  # sums are at it, too
    if floor != "mixed":
        floor_F = torch.full_like(floor_F, float(floor))
    expected = Pattern.of((x_BI.double() @ W_FI.double().T > floor_F).double())
    ends_B1, columns_N = fused.above(x_BI.bfloat16(), W_FI.bfloat16(), floor_F, tile)
    assert torch.equal(ends_B1, expected.ends_B1)
    assert torch.equal(columns_N, expected.columns_N)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 999), batch=st.integers(1, 9), features=st.integers(1, 9), width=st.sampled_from([1, 7, 600])
)
def test_dots_above_a_floor(seed: int, batch: int, features: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pattern = Pattern.of((torch.rand(batch, features, generator=generator) < 0.5).double().to(DEVICE))
    x_BI, W_FI = whole_numbers(seed, batch, width) * (1 + 2**-12), whole_numbers(seed + 1, features, width)
    floor_F = whole_numbers(seed + 2, features, 1)[:, 0]
    place = (pattern.ends_B1, pattern.columns_N, x_BI, W_FI)
    above_BF = x_BI.bfloat16().double() @ W_FI.double().T > floor_F
    expected_N = gpu.dots(*place).masked_fill(~above_BF[pattern.rows_N, pattern.columns_N], -torch.inf)
    assert torch.equal(gpu.dots_above(*place, floor_F), expected_N)


@pytest.mark.parametrize("width", [1, 700])
def test_rows_are_rounded_as_torch_rounds(width: int) -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (9, width), generator=torch.Generator().manual_seed(0))
    bits[0] = bits[0] // 2**16 * 2**16 + 2**15  # half way
    matrix_FI = bits.int().view(torch.float32)
    matrix_FI = torch.where(matrix_FI.abs() < 1e18, matrix_FI, torch.ones(())).to(DEVICE)
    rounded_FI = torch.empty_like(matrix_FI, dtype=torch.bfloat16)
    norm_F = gpu.round_rows(matrix_FI, rounded_FI)
    assert torch.equal(rounded_FI, matrix_FI.bfloat16())
    torch.testing.assert_close(norm_F, rounded_FI.double().norm(dim=1).float())


def hard(seed: int, batch: int, features: int, width: int) -> tuple[Tensor, Tensor]:
    """x and W whose products in bfloat16 are, for the first token, rounding and nothing else."""
    generator = torch.Generator().manual_seed(seed)
    x_BI, W_FI = (torch.randn(rows, width, generator=generator) for rows in (batch, features))
    x_BI *= torch.randn(width, generator=generator).exp()
    W_FI = W_FI.bfloat16().float() * (torch.rand(features, 1, generator=generator) < 0.9)  # and features of nothing
    if batch and width > 3:
        x_BI[0, -3:] = 1.0
        W_FI[:, -3:] = 0.0
        for at in (-3, -2, -1):  # each takes away what is left but for 2^-9 of it
            W_FI[:, at] = -(W_FI.double() @ x_BI[0].bfloat16().double()).bfloat16()
    return x_BI.to(DEVICE), W_FI.to(DEVICE)


def found_by_all(x_BI: Tensor, W_FI: Tensor, floor_F: Tensor, dense: float) -> Tensor:
    """Where the products exceed the floor, [B, F], having checked that all ways say so to the bit."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "DENSE", dense)
        for name in WAYS:
            patch.setattr(Forced, "names", cycle([name]))
            finder = Forced(W_FI)
            finder.read(x_BI)
            pattern, dots_N = finder.above(floor_F)
            kept_N = dots_N > floor_F[pattern.columns_N]
            kept = pattern.keep(kept_N)
            found.append((kept.ends_B1, kept.columns_N, dots_N[kept_N]))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    found_BF = torch.zeros(len(x_BI), len(W_FI), dtype=torch.bool, device=DEVICE)
    found_BF[kept.rows_N, kept.columns_N] = True
    return found_BF


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    batch=st.integers(0, 4),
    features=st.integers(1, 40),
    width=st.sampled_from([1, 20, 150]),
    floor=st.sampled_from([-torch.inf, 0.0, 0.0, 1.0, torch.inf]),
    dense=st.sampled_from([-1.0, 1.0, 1.0]),
)
def test_every_way_finds_the_same_bits(
    seed: int, batch: int, features: int, width: int, floor: float, dense: float
) -> None:
    x_BI, W_FI = hard(seed, batch, features, width)
    found_BF = found_by_all(x_BI, W_FI, torch.full((features,), floor, device=DEVICE), dense)
    exact_BF = x_BI.double() @ W_FI.double().T
    rounding_BF = 2**-6 * x_BI.double().norm(dim=1)[:, None] * W_FI.double().norm(dim=1)
    assert not (found_BF & (exact_BF <= floor - rounding_BF)).any()
    assert not (~found_BF & (exact_BF > floor + rounding_BF)).any()


@pytest.mark.parametrize("just", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_places_that_only_some_ways_look_at_change_nothing(seed: int, just: bool) -> None:
    """They are just as far below the floor as is looked at all; so many that products would be dense, or not."""
    x_BI, W_FI = hard(seed, 1, 20, 150)
    W_FI[10:] = (
        x_BI * torch.linspace(1, 2, 10, device=DEVICE)[:, None]
    )  # others are above, five less far than they are rounded
    rough_F = (x_BI.bfloat16().float() @ W_FI.bfloat16().float().T)[0]
    finder, floor_F = Forced(W_FI), rough_F.clone()
    finder.read(x_BI)
    for _ in range(5):
        floor_F += rough_F - finder._lowered(floor_F)
    floor_F[10:] = rough_F[10:] * (1 - 2**-12)
    floor_F[15:] = 0
    looked_at = min(len(way(finder._lowered(floor_F))) for way in finder.ways().values())
    found_BF = found_by_all(x_BI, W_FI, floor_F, looked_at / len(W_FI) if just else 1.0)
    assert found_BF[0, 15:].all()


@pytest.fixture(scope="module")
def stores(tmp_path_factory: Any) -> list[Path]:
    return make_world(56, d=8, shared=6, exclusive=2, rate=0.2).stores(tmp_path_factory.mktemp("activations"))


def fitted(stores: list[Path], **change: Any) -> Trainer:
    usual = {"models": ["base", "rl"], "features": 16, "k": 2, "batch_size": 8, "lr": 1e-2, "epochs": 1.0}
    chosen = FitSettings(crosscoder=Section(**usual | change), layer=1, outlier_norm=2)
    found = Trainer(chosen, join(group_parts(stores, ["base", "rl"])))
    for acts_BMD in found.loader:
        found.step(acts_BMD)
    return found


@pytest.mark.parametrize(
    "change",
    [
        {"sparsity": "batch_topk", "aux_weight": 0.0},
        {"sparsity": "batch_topk", "aux_weight": 0.1},
        {"sparsity": "topk", "aux_weight": 0.1},
        {"sparsity": "relu_l1", "l1": 0.5},
        {"sparsity": "jumprelu", "l0_weight": 0.5},
    ],
    ids=["batch_topk", "revival", "topk", "relu_l1", "jumprelu"],
)
def test_no_way_changes_what_a_fit_computes(
    stores: list[Path], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "DENSE", 0.55)  # relu_l1 is now below and now above
    usual = fitted(stores, **change)
    monkeypatch.setattr(encoder, "candidates_of", Forced)
    ends = []
    for names in ([WAYS[0]], WAYS):
        monkeypatch.setattr(Forced, "names", cycle(names))
        ends.append(fitted(stores, **change))
    one, other = (end.crosscoder.state_dict() for end in ends)
    assert ends[0].log == ends[1].log
    for name, weight in other.items():
        assert torch.equal(weight, one[name]), name
    assert [row["loss"] for row in ends[0].log] == pytest.approx([row["loss"] for row in usual.log], rel=0.01)
    if change.get("aux_weight") == 0:  # the choice is exact; elsewhere codes of almost 0 depend on rounding
        for name, weight in usual.crosscoder.state_dict().items():
            torch.testing.assert_close(one[name], weight, rtol=1e-3, atol=1e-4)


def clock(*times: float) -> Any:
    """Says these times, one after the other."""
    said: Iterator[float] = iter(times)
    return lambda run: (run(), next(said))[1]


@pytest.mark.parametrize(("times", "best"), [((1.0, 2.0, 3.0, 4.0), 0), ((4.0, 2.0, 1.0, 3.0), 2)])
def test_the_fastest_way_is_measured_once_a_size_and_said(
    times: tuple[float, ...], best: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rlgen")
    taken: list[str] = []
    for name in ("_anew", "_selected"):
        method = getattr(MeasuredCandidates, name)
        monkeypatch.setattr(MeasuredCandidates, name, noting(method, taken))
    monkeypatch.setattr(candidates, "milliseconds", clock(*times, *times))
    finder, floor_F = MeasuredCandidates(torch.eye(20, device=DEVICE)), torch.full((20,), 0.5, device=DEVICE)
    for batch in (16, 15, 14, 16):  # outliers are missing
        finder.read(torch.eye(20, device=DEVICE)[:batch])
        pattern, dots_N = finder.above(floor_F)
        assert pattern.columns_N.tolist() == list(range(batch))
        assert dots_N.tolist() == [1.0] * batch
    lines = [line for line in caplog.messages if "candidates" in line]
    assert len(lines) == 1
    assert f"by the {WAYS[best]} (dense product {times[0]:.3g} ms, fused kernel 128x256 2 ms" in lines[0]
    assert taken[4:] == [WAYS[best]] * 3
    finder.read(torch.eye(20, device=DEVICE).repeat(2, 1))
    finder.above(floor_F)
    assert len([line for line in caplog.messages if "candidates" in line]) == 2


def noting(method: Any, names: list[str]) -> Any:
    def noted(self: MeasuredCandidates, low_F: Tensor, tile: fused.Tile | None = None) -> Pattern:
        names.append(f"fused kernel {tile.rows}x{tile.columns}" if tile else WAYS[0])
        found: Pattern = method(self, low_F, *([tile] if tile else []))
        return found

    return noted


def test_a_dense_product_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is where it was needed, as for topk, or where candidates are wanted again and again."""
    monkeypatch.setattr(candidates, "milliseconds", clock())  # nothing is measured
    finder, floor_F = MeasuredCandidates(torch.eye(20, device=DEVICE)), torch.full((20,), 0.5, device=DEVICE)
    for _ in range(3):
        finder.read(torch.eye(20, device=DEVICE))
        for _ in range(2):
            finder.above(floor_F)
    finder.read(torch.eye(20, device=DEVICE))
    finder.above(floor_F)
    finder.read(torch.eye(20, device=DEVICE))
    finder.product()
    finder.above(floor_F)
