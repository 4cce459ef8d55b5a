"""Which features are active on which tokens (METHOD section 4: BatchTopK, Minder et al. 2504.02922)."""

from __future__ import annotations

import torch
from torch import Tensor

from rlgen.crosscoder.sparse import Pattern


def batch_topk(scores_BF: Tensor, k: int, guess: float = 0.0) -> tuple[Pattern, Tensor]:
    """The B * k largest positive scores of the batch: where they are, and the smallest of them (0 if there is none).

    Scores are codes times the sum of their decoder norms. Of equal scores at the limit all are taken. `guess`
    only makes it faster: a lower bound of the limit, tried first.
    """
    flat = scores_BF.flatten()
    wanted = len(scores_BF) * k
    candidates = (flat > guess).nonzero()[:, 0]
    if len(candidates) < wanted and guess > 0:
        candidates = (flat > 0).nonzero()[:, 0]
    found = flat[candidates]
    if len(found) > wanted:
        limit = torch.kthvalue(found, len(found) - wanted + 1).values
        candidates = candidates[found >= limit]
    else:
        limit = found.min() if len(found) else flat.new_zeros(())
    features = scores_BF.shape[1]
    return Pattern(candidates // features, candidates % features, (len(scores_BF), features)), limit
