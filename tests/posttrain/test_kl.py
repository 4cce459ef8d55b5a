"""The KL divergence to the base, against its definition."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlgen.models import load_model
from rlgen.posttrain.kl import KL, KlToBase, divergence
from rlgen.study.sections import SftArm
from tests.evaluation.tiny import make_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def trainer_of(model: Any, batch: dict[str, Any]) -> Any:
    accelerator = SimpleNamespace(reduce=lambda sums: sums, device="cpu")
    return SimpleNamespace(
        model_wrapped=model,
        last_batch=batch,
        accelerator=accelerator,
        args=SimpleNamespace(bf16=False),
        compute_loss_context_manager=contextlib.nullcontext,
        _metrics={"train": {KL: []}},
    )


def measured(model: Any, base: Path, batch: dict[str, Any]) -> float:
    trainer = trainer_of(model, batch)
    arm = SftArm(name="sft", method="sft", kl_every=3)
    callback = KlToBase(trainer, arm, base)
    for step in range(1, 4):
        callback.on_step_end(None, SimpleNamespace(global_step=step), None)  # type: ignore[arg-type]
    (value,) = trainer._metrics["train"][KL]
    return float(value)


@pytest.fixture
def ids_BT() -> torch.Tensor:
    return torch.randint(5, 20, (3, 12), generator=torch.Generator().manual_seed(0))


def test_is_the_mean_over_the_tokens_learnt_from(tiny: Path, ids_BT: torch.Tensor) -> None:
    model, base = load_model(tiny), load_model(tiny)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
        labels_BT = ids_BT.clone()
        labels_BT[:, :5] = -100
        labels_BT[2, 9:] = -100
        expected = []
        for row in range(3):
            own, theirs = (torch.log_softmax(m(ids_BT[row : row + 1]).logits[0], -1) for m in (model, base))
            expected += [
                float(torch.nn.functional.kl_div(theirs[at - 1], own[at - 1], reduction="sum", log_target=True))
                for at in range(1, 12)
                if labels_BT[row, at] != -100
            ]
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[2, 9:] = 0  # padding
    batch = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}
    assert measured(model, tiny, batch) == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_of_completions_padded_on_the_right_after_prompts_padded_on_the_left(tiny: Path, ids_BT: torch.Tensor) -> None:
    model = load_model(tiny)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    prompt_mask, completion_mask = torch.ones(3, 5, dtype=torch.int), torch.ones(3, 7, dtype=torch.int)
    prompt_mask[0, :2] = 0
    completion_mask[1, 4:] = 0
    padded = {
        "prompt_ids": ids_BT[:, :5],
        "prompt_mask": prompt_mask,
        "completion_ids": ids_BT[:, 5:],
        "completion_mask": completion_mask,
    }
    other = {**padded, "completion_ids": padded["completion_ids"].clone()}
    other["completion_ids"][1, 4:] = 3
    assert measured(model, tiny, padded) == pytest.approx(measured(model, tiny, other), rel=1e-6)
    assert measured(load_model(tiny), tiny, padded) == pytest.approx(0, abs=1e-6)


def test_padding_is_not_fed(tiny: Path, ids_BT: torch.Tensor) -> None:
    """GRPO pads to the longest completion of all: a short one must not pay for it."""
    model = load_model(tiny)
    fed: list[int] = []
    model.register_forward_pre_hook(lambda _m, _a, given: fed.append(given["input_ids"].shape[1]), with_kwargs=True)
    padded = {
        "prompt_ids": ids_BT[:, :5],
        "prompt_mask": torch.ones(3, 5, dtype=torch.int),
        "completion_ids": torch.nn.functional.pad(ids_BT[:, 5:], (0, 80)),
        "completion_mask": torch.nn.functional.pad(torch.ones(3, 7, dtype=torch.int), (0, 80)),
    }
    short = {**padded, "completion_ids": ids_BT[:, 5:], "completion_mask": torch.ones(3, 7, dtype=torch.int)}
    assert measured(model, tiny, padded) == pytest.approx(measured(model, tiny, short), abs=1e-6)
    assert set(fed) == {12}


def test_many_positions_are_summed_a_few_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    own, base = (torch.randn(300, 11, generator=generator) for _ in range(2))
    log_own, log_base = torch.log_softmax(own, -1), torch.log_softmax(base, -1)
    expected = torch.nn.functional.kl_div(log_base, log_own, reduction="sum", log_target=True)
    assert divergence(own, base) == pytest.approx(float(expected), rel=1e-5)
