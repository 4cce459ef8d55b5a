"""The objective in float64 against a reference written as METHOD section 4 reads."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlgen.crosscoder import sparse
from rlgen.crosscoder.losses import Objective
from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig
from rlgen.study.sections import Crosscoder as Settings

B, M, D, F, K = 7, 3, 4, 12, 2


def prepared(sparsity: str, **change: Any) -> tuple[Objective, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    models = ["sft", "base", "rl"]
    crosscoder = Wide(CrosscoderConfig(models, D, F, sparsity, K, layer=1)).double()
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.copy_(torch.randn_like(parameter))
    crosscoder.scale.copy_(torch.tensor([0.5, 2.0, 1.5]))
    settings = Settings(models=models, features=F, k=K, sparsity=sparsity, **change)
    variance_M, delta_M = torch.tensor([3.0, 4.0, 5.0]).double(), torch.tensor([0.5, 0.0, 0.25]).double()
    objective = Objective(settings, crosscoder, variance_M, delta_M)
    dead_F = torch.arange(F) % 3 == 0
    return objective, torch.randn(B, M, D).double(), 4.0 / delta_M, dead_F


def reference(objective: Objective, x_BMD: Tensor, ratio_M: Tensor, dead_F: Tensor, warm: float) -> Tensor:
    coder, settings = objective.crosscoder, objective.settings
    weights_F = sum(coder.W_dec[:, m].norm(dim=-1) for m in range(M))
    pre_BF = sum(x_BMD[:, m] @ coder.W_enc[:, m].T for m in range(M)) + coder.b_enc
    codes_BF = torch.relu(pre_BF)
    scores_BF = (codes_BF * weights_F).detach()
    used_BF, penalty = codes_BF, torch.zeros(())
    if settings.sparsity == "batch_topk":
        used_BF = codes_BF * (scores_BF >= scores_BF.flatten().sort(descending=True).values[B * K - 1])
    elif settings.sparsity == "topk":
        used_BF = codes_BF * (scores_BF >= scores_BF.sort(descending=True).values[:, K - 1 : K])
    elif settings.sparsity == "jumprelu":
        used_BF, active_BF = straight_through(pre_BF, weights_F.detach(), coder)
        penalty = warm * settings.l0_weight * active_BF.sum(dim=-1).mean()
    else:
        penalty = warm * settings.l1 * (codes_BF * weights_F).sum(dim=-1).mean()
    errors = [used_BF @ coder.W_dec[:, m] + coder.b_dec[m] - x_BMD[:, m] for m in range(M)]
    loss = sum((error**2).sum(dim=-1).mean() for error in errors) + penalty
    if settings.delta_weight:
        base = 1
        for arm in (0, 2):
            delta_error = errors[arm] / coder.scale[arm] - errors[base] / coder.scale[base]
            in_base_units = (delta_error * coder.scale[base]) ** 2
            loss = loss + settings.delta_weight * ratio_M[arm] * in_base_units.sum(dim=-1).mean()
    if settings.aux_weight and settings.sparsity != "relu_l1":
        dead_scores_BF = scores_BF * dead_F
        limit = dead_scores_BF.flatten().sort(descending=True).values[B * 2 * K - 1].clamp(min=1e-300)
        tried_BF = codes_BF * (dead_scores_BF >= limit)
        left = sum((((tried_BF @ coder.W_dec[:, m]) + errors[m].detach()) ** 2).sum(dim=-1).mean() for m in range(M))
        loss = loss + settings.aux_weight * min(1.0, int(dead_F.sum()) / (2 * K)) * left
    return loss


class Wide(Crosscoder):
    """Many scores are near their thresholds."""

    bandwidth = 3.0  # type: ignore[assignment]


def straight_through(pre_BF: Tensor, weights_F: Tensor, coder: Crosscoder) -> tuple[Tensor, Tensor]:
    """Values of JumpReLU and its step, with the gradients of 2407.14435 (a rectangle of the bandwidth's width)."""
    theta_F = coder.log_threshold.exp()
    scores_BF = (pre_BF * weights_F).detach()
    active_BF = (scores_BF > theta_F).double()
    near_BF = ((scores_BF - theta_F).abs() < coder.bandwidth / 2).double().detach() / coder.bandwidth
    step_BF = active_BF - near_BF * (theta_F - theta_F.detach())
    jump_BF = pre_BF * active_BF - near_BF * (theta_F / weights_F).detach() * (theta_F - theta_F.detach())
    return jump_BF, step_BF


CASES = [
    ("relu_l1", {"l1": 0.3}),
    ("relu_l1", {"l1": 0.3, "delta_weight": 0.7}),
    ("batch_topk", {"aux_weight": 0.0}),
    ("batch_topk", {"aux_weight": 0.0, "delta_weight": 0.7}),
    ("batch_topk", {"aux_weight": 0.1, "delta_weight": 0.7}),
    ("topk", {"aux_weight": 0.1, "delta_weight": 0.7}),
    ("jumprelu", {"aux_weight": 0.0, "l0_weight": 0.3}),
    ("jumprelu", {"aux_weight": 0.1, "l0_weight": 0.3, "delta_weight": 0.7}),
]


@pytest.mark.parametrize("dense_from", [0.0, 1.0], ids=["dense", "sparse"])
@pytest.mark.parametrize(("sparsity", "change"), CASES)
def test_loss_and_gradients_equal_the_reference(
    sparsity: str, change: dict[str, float], dense_from: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "DENSE", dense_from)
    objective, x_BMD, ratio_M, dead_F = prepared(sparsity, **change)
    parameters = list(objective.crosscoder.parameters())
    terms = objective(x_BMD, 0.6, dead_F)
    expected = reference(objective, x_BMD, ratio_M, dead_F, 0.6)
    terms.loss.backward()
    assert terms.dense == (dense_from == 0.0)
    assert torch.allclose(terms.loss, expected, rtol=1e-12)
    assert terms.value == pytest.approx(float(expected.detach()), rel=1e-12)
    for parameter, grad in zip(parameters, torch.autograd.grad(expected, parameters), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, grad, rtol=1e-10, atol=1e-12)


def test_models_that_do_not_differ_have_no_delta_loss() -> None:
    objective, x_BMD, _, dead_F = prepared("batch_topk", aux_weight=0.0)
    crosscoder, settings = objective.crosscoder, objective.settings.model_copy(update={"delta_weight": 1.0})
    with_delta = Objective(settings, crosscoder, torch.ones(M), torch.zeros(M))
    assert torch.equal(with_delta(x_BMD, 1.0, dead_F).loss, objective(x_BMD, 1.0, dead_F).loss)
