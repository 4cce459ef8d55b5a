"""The noise null (METHOD: nulls that must come out null): base with weight noise as large as an arm's change."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from rlgen.errors import StudyError
from rlgen.models import load_model, load_tokenizer, save_model
from rlgen.stage import derive_seed, stage, write_json
from rlgen.study.stages import PerturbSettings

NOISE_JSON = "noise.json"
"""Frobenius norm of the noise by parameter."""


def perturb(settings: PerturbSettings, base: Path, like: Path, out: Path) -> None:
    """Write base plus Gaussian noise whose Frobenius norm is, parameter by parameter, that of `like` minus base.

    The noise is made in float32 and has exactly that norm before it is rounded to the base's precision. Raises
    StudyError if the two models' parameters do not match.
    """
    with stage("perturb", settings, {"base": base, "like": like}, out) as work:
        model = load_model(base).cpu().requires_grad_(False)
        parameters = dict(model.named_parameters())
        norms = _difference_norms(parameters, load_model(like).cpu().requires_grad_(False))
        for name, parameter in parameters.items():
            generator = torch.Generator().manual_seed(derive_seed(settings.seed, "perturb", name))
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter.float() + noise * (norms[name] / torch.linalg.vector_norm(noise)))
        save_model(model, load_tokenizer(base), work.folder)
        write_json(work.folder / NOISE_JSON, norms)


def _difference_norms(base: dict[str, Tensor], model: nn.Module) -> dict[str, float]:
    like = dict[str, Tensor](model.named_parameters())
    ours, theirs = ({name: tuple(p.shape) for name, p in found.items()} for found in (base, like))
    if ours != theirs:
        odd = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))[0]
        raise StudyError(
            f"nulls.noise_like: parameter `{odd}` is {ours.get(odd)} in base and {theirs.get(odd)} in the arm; "
            "name an arm of the base's architecture"
        )
    return {name: float(torch.linalg.vector_norm(like[name].float() - base[name].float())) for name in base}
