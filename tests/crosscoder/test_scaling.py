"""Latent scaling on activations whose features are known."""

import math

import torch

from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig
from rlgen.crosscoder.scaling import LatentScaling
from rlgen.crosscoder.sparse import Pattern

D, TOKENS = 6, 4000
OWN, SHRUNK, DECOUPLED, SHARED, DEAD = range(5)
"""Feature in rl alone; in both, but shrunk away in base; in both, in base by another feature; in both; never active."""
TWIN = 5
"""What carries DECOUPLED in base."""


def planted() -> tuple[Crosscoder, torch.Tensor, torch.Tensor]:
    """A crosscoder that reads its features right; the true contributions are W_dec but for SHRUNK in base."""
    crosscoder = Crosscoder(CrosscoderConfig(["base", "rl"], D, 6, "relu_l1", 1, layer=1)).requires_grad_(False)
    axes_FD = torch.eye(6)[[0, 1, 2, 3, 4, 2]]
    crosscoder.W_dec.copy_(torch.stack([axes_FD, axes_FD], dim=1))
    for feature, slot in ((OWN, 0), (SHRUNK, 0), (DECOUPLED, 0), (TWIN, 1)):
        crosscoder.W_dec[feature, slot] = 0
    random = torch.Generator().manual_seed(0)
    codes_BF = torch.rand(TOKENS, 6, generator=random) * (torch.rand(TOKENS, 6, generator=random) < 0.2)
    codes_BF[:, DEAD] = 0
    codes_BF[:, TWIN] = codes_BF[:, DECOUPLED]
    acts_BMD = torch.einsum("bf,fmd->bmd", codes_BF, crosscoder.W_dec)
    acts_BMD[:, 0, SHRUNK] = 0.5 * codes_BF[:, SHRUNK]
    return crosscoder, codes_BF, acts_BMD + 0.01 * torch.randn(acts_BMD.shape, generator=random)


def test_it_tells_what_is_missing_from_what_was_shrunk_or_moved() -> None:
    crosscoder, codes_BF, acts_BMD = planted()
    scaling = LatentScaling(crosscoder)
    for part in range(0, TOKENS, 1000):
        codes, acts = codes_BF[part : part + 1000], acts_BMD[part : part + 1000]
        pattern = Pattern.of(codes)
        decoded = torch.einsum("bf,fmd->bmd", codes, crosscoder.W_dec)
        scaling.add(pattern, codes[pattern.rows_N, pattern.columns_N], acts, decoded)
    found = scaling.columns(["base", "rl"])
    assert abs(found["nu_eps_base"][OWN]) < 0.02
    assert abs(found["nu_r_base"][OWN]) < 0.02
    assert abs(found["nu_eps_base"][SHRUNK] - 0.5) < 0.02
    assert abs(found["nu_r_base"][SHRUNK]) < 0.02
    assert abs(found["nu_eps_base"][DECOUPLED]) < 0.02
    assert abs(found["nu_r_base"][DECOUPLED] - 1) < 0.02
    assert all(math.isnan(found[name][DEAD]) for name in found)
    assert all(math.isnan(found[f"{name}_rl"][OWN]) for name in ("nu_eps", "nu_r"))


def test_a_shared_feature_is_in_both() -> None:
    crosscoder, codes_BF, acts_BMD = planted()
    scaling = LatentScaling(crosscoder)
    pattern = Pattern.of(codes_BF)
    decoded_BMD = torch.einsum("bf,fmd->bmd", codes_BF, crosscoder.W_dec)
    scaling.add(pattern, codes_BF[pattern.rows_N, pattern.columns_N], acts_BMD, decoded_BMD)
    found = scaling.columns(["base", "rl"])
    other = "rl" if int(scaling.owner_F[SHARED]) == 0 else "base"
    assert abs(found[f"nu_eps_{other}"][SHARED] - 1) < 0.02
    assert abs(found[f"nu_r_{other}"][SHARED] - 1) < 0.02
