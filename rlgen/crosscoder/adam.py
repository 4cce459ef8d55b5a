"""Adam. `torch.optim` would import PyTorch's compiler with it: seconds at the start of every fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Adam:
    """Adam (1412.6980) with PyTorch's fused kernel: the same bits as `torch.optim.Adam(fused=True)`."""

    def __init__(self, parameters: Iterable[nn.Parameter], betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self._parameters = list(parameters)
        self._betas = betas
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        self._means = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self._parameters]
        self._steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self._parameters]

    @torch.no_grad()
    def step(self, lr: float, divisor: Tensor | None = None) -> None:
        """Move every parameter along its gradient, divided by `divisor` if that is given; gradients are 0 then."""
        for step in self._steps:
            step += 1
        torch._fused_adam_(
            list[Tensor](self._parameters),
            [p.grad for p in self._parameters if p.grad is not None],
            self._means,
            self._squares,
            [],
            self._steps,
            lr=lr,
            beta1=self._betas[0],
            beta2=self._betas[1],
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()  # kept, as its memory would have to be mapped again

    def state_dict(self) -> dict[str, list[Tensor]]:
        """Moments and step counts."""
        return {"means": self._means, "squares": self._squares, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._means, self._squares, self._steps = state["means"], state["squares"], state["steps"]
