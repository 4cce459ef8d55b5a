"""Which of an encoder's pre-activations may count, found without computing all of them exactly.

The product that finds them is the one dense step that is left. It is taken in bfloat16 where the hardware is fast at
that, and exact products at the places that it finds.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlgen.crosscoder.sparse import Pattern, kernels_for

if TYPE_CHECKING:
    from rlgen.crosscoder.kernels.fused import Tile

log = logging.getLogger("rlgen")

_TERMS = 16
"""Terms of a sum that a matrix unit adds at once; partial sums are then rounded once for so many."""

Way = Callable[[Tensor], Pattern]
"""Lists where a product exceeds a floor [F]."""


class Candidates:
    """Of x @ W^T: `read` a batch x, then ask. By a dense product, of which what is above a floor is listed."""

    def __init__(self, W_FI: Tensor, rough: torch.dtype) -> None:
        self._W_FI = W_FI
        self._rough_FI = W_FI.to(rough)
        self._x_BI, self._rough_BI = W_FI.new_empty(0), self._rough_FI.new_empty(0)
        self._product_BF = self._rough_FI.new_empty(0)
        self._taken = False
        self._kernels = kernels_for(W_FI.device)

    def refresh(self) -> None:
        """Take note that the weights have changed."""
        if self._rough_FI is not self._W_FI:
            self._rough_FI.copy_(self._W_FI)

    def read(self, x_BI: Tensor) -> None:
        """Take in a batch; its product is taken when it is first needed."""
        self._x_BI, self._rough_BI, self._taken = x_BI, x_BI.to(self._rough_FI.dtype), False

    def product(self) -> Tensor:
        """x @ W^T as roughly as it is found, [B, F]."""
        if not self._taken:
            shape = (len(self._x_BI), len(self._W_FI))
            if self._product_BF.shape != shape:
                self._product_BF = self._rough_FI.new_empty(shape)
            torch.mm(self._rough_BI, self._rough_FI.T, out=self._product_BF)
            self._taken = True
        return self._product_BF

    def above(self, floor_F: Tensor) -> tuple[Pattern, Tensor]:
        """Where the rough product exceeds a floor, and what the product exactly is, [N]; -inf where it does not."""
        return self._exactly(self._listed(floor_F))

    def ways(self) -> dict[str, Way]:
        """What can find candidates, by name: each lists where the product exceeds a floor, up to rounding."""
        return {"dense product": self._anew}

    def _anew(self, floor_F: Tensor) -> Pattern:
        self._taken = False
        return self._listed(floor_F)

    def _listed(self, floor_F: Tensor) -> Pattern:
        ends_B1, columns_N = self._kernels.above(self.product(), floor_F)
        return Pattern(ends_B1, columns_N, len(self._W_FI))

    def _exactly(self, pattern: Pattern) -> tuple[Pattern, Tensor]:
        return pattern, pattern.dots(self._x_BI, self._W_FI)


class MeasuredCandidates(Candidates):
    """On a GPU: by the dense product, or by the kernel that keeps it out of memory where that is measured to be faster.

    A clock must not decide what a fit computes. The ways differ by rounding: sums are taken in another order, and one
    way rounds them to bfloat16. So each looks a hair below the floor, where no place above it can be hidden, and a sum
    in an order of its own (`dots_above`) then says of every place that was found whether it is above.
    """

    def __init__(self, W_FI: Tensor) -> None:
        from rlgen.crosscoder.kernels import fused, gpu  # Triton takes a while to import

        super().__init__(W_FI, torch.bfloat16)
        self._kernels, self._fused = gpu, fused
        self._fastest: dict[int, Way] = {}
        """By the batch's size, in powers of two: batches lack a few outliers, some more, some fewer."""
        self._many = True
        """Whether the last batch had so many that dense products were taken: then this one's is likely to be needed."""
        self._asked, self._asked_before = 0, 0
        """How often candidates of this batch and of the last one were wanted: one dense product serves them all."""
        self.refresh()

    def refresh(self) -> None:
        """Take note that the weights have changed."""
        self._norm_F = self._kernels.round_rows(self._W_FI, self._rough_FI)

    def read(self, x_BI: Tensor) -> None:
        """Take in a batch; its product is taken when it is first needed."""
        super().read(x_BI)
        self._asked, self._asked_before = 0, self._asked

    def above(self, floor_F: Tensor) -> tuple[Pattern, Tensor]:
        """As its parent's; all that is not -inf is the same bits, whichever way it is found."""
        low_F = self._lowered(floor_F)
        pattern = self._way(low_F)(low_F)
        self._many, self._asked = pattern.dense, self._asked + 1
        if pattern.dense:  # by a hair, perhaps: the dense product says, whichever way this was found
            listed = self._listed(floor_F)
            if listed.dense:
                return self._exactly(listed)
        found_N = self._kernels.dots_above(pattern.ends_B1, pattern.columns_N, self._x_BI, self._W_FI, floor_F)
        return pattern, found_N

    def _lowered(self, floor_F: Tensor) -> Tensor:
        """A floor so much lower that each way finds all that another, or `dots_above`, has above the one given.

        Products of two bfloat16 numbers are exact in float32, and matrix units add 16 at once. So a sum of I is rounded
        I / 16 times, and 16 more where lanes are added up, each time by 2^-23 |x| |w| at most (it may be cut off): two
        sums differ by twice that. |x| |w| is far more than partial sums are, so what units lose within their 16 terms
        is allowed for, too. Rounded to bfloat16, a sum moves by 2^-8 of itself; twice that is allowed for.
        """
        roundings = self._W_FI.shape[1] / _TERMS + _TERMS
        norm_B = torch.linalg.vector_norm(self._rough_BI, dim=1, dtype=torch.float32)
        longest = norm_B.max() if len(norm_B) else 0.0
        hair_F = 1.01 * roundings * 2**-22 * longest * self._norm_F
        lowered_F: Tensor = floor_F * (1 - 2**-7 * floor_F.sign()) - hair_F
        return lowered_F

    def ways(self) -> dict[str, Way]:
        """As its parent's, and the fused kernel by the tiles that it can work in."""
        fused = {f"fused kernel {t.rows}x{t.columns}": partial(self._selected, tile=t) for t in self._fused.TILES}
        return super().ways() | fused

    def _way(self, low_F: Tensor) -> Way:
        if self._taken or self._many or self._asked or self._asked_before > 1:
            return self._listed
        size = (len(self._x_BI) - 1).bit_length()
        if size not in self._fastest:
            self._fastest[size] = self._measured(low_F)
        return self._fastest[size]

    def _measured(self, low_F: Tensor) -> Way:
        ways = self.ways()
        times = {name: milliseconds(partial(way, low_F)) for name, way in ways.items()}
        best = min(times, key=lambda name: times[name])
        said = ", ".join(f"{name} {time:.3g} ms" for name, time in times.items())
        log.info("fit: candidates of batches of %d by the %s (%s)", len(self._x_BI), best, said)
        return ways[best]

    def _selected(self, low_F: Tensor, tile: Tile) -> Pattern:
        ends_B1, columns_N = self._fused.above(self._rough_BI, self._rough_FI, low_F, tile)
        return Pattern(ends_B1, columns_N, len(self._W_FI))


def candidates_of(W_FI: Tensor) -> Candidates:
    """The kind for these weights; float64 is for tests, where nothing is rounded."""
    if W_FI.dtype != torch.float32:
        return Candidates(W_FI, W_FI.dtype)
    if W_FI.is_cuda:
        return MeasuredCandidates(W_FI)
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return Candidates(W_FI, torch.bfloat16 if fast else torch.float32)


def milliseconds(run: Callable[[], object], times: int = 5) -> float:
    """Of the GPU, for the fastest of some runs after one to warm up; infinite if they need more than it has."""
    import triton

    found: list[float] = []
    try:
        run()
    except triton.OutOfResources:
        return math.inf
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        run()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return min(found)
