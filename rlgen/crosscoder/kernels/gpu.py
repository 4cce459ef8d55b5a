"""The same products by PyTorch's own operations, for a GPU; they run on a CPU too, more slowly than `cpu`'s."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")  # else in the log of every fit


def times(
    ends_B1: Tensor, columns_N: Tensor, values_N: Tensor, matrix_FI: Tensor, add_to_BI: Tensor | None = None
) -> Tensor:
    """codes @ matrix, [B, I]; added to `add_to_BI`, in place, if that is given."""
    found = embedding_bag(columns_N, matrix_FI.detach(), ends_B1[:-1], mode="sum", per_sample_weights=values_N.detach())
    return found if add_to_BI is None else add_to_BI.add_(found)


def dots(ends_B1: Tensor, columns_N: Tensor, left_BI: Tensor, right_FI: Tensor) -> Tensor:
    """left @ right^T at the pattern's places alone, [N]."""
    zeros_N = torch.zeros(len(columns_N), dtype=left_BI.dtype, device=left_BI.device)
    shape = (len(left_BI), len(right_FI))
    pattern = torch.sparse_csr_tensor(ends_B1, columns_N, zeros_N, shape, check_invariants=False)
    found: Tensor = torch.sparse.sampled_addmm(pattern, left_BI.detach(), right_FI.detach().T).values()
    return found


def by_column(ends_B1: Tensor, columns_N: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """The pattern feature by feature: ends [F + 1], and the order of its places [N], rows ascending in a feature."""
    ends_F1 = torch.zeros(features + 1, dtype=torch.int64, device=columns_N.device)
    torch.cumsum(torch.bincount(columns_N, minlength=features), dim=0, out=ends_F1[1:])
    return ends_F1, torch.argsort(columns_N, stable=True)


def above(pre_BF: Tensor, floor_F: Tensor) -> tuple[Tensor, Tensor]:
    """Where pre > floor: ends [B + 1] and columns [N]."""
    above_BF = pre_BF > floor_F.to(torch.promote_types(pre_BF.dtype, torch.float32))
    ends_B1 = torch.zeros(len(pre_BF) + 1, dtype=torch.int64, device=pre_BF.device)
    torch.cumsum(above_BF.sum(dim=1), dim=0, out=ends_B1[1:])
    return ends_B1, above_BF.nonzero()[:, 1].contiguous()
