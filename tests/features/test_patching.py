"""The measured change of an answer's log-probability, against one sequence at a time and against its first order."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.features.codes import Item
from rlgen.features.gradients import answer_gradients
from rlgen.features.patching import patching_effects
from rlgen.features.scores import ItemValues
from rlgen.features.values import patched_values
from rlgen.models import load_model, load_tokenizer
from rlgen.study.sections import TokenSet
from tests.features.alone import log_probability
from tests.features.arms import LAYER, make_arms
from tests.features.planted import planted

ITEMS = [Item("Q max 12345\nA ", ["12345=5", "=5"]), Item("Q cnt abc\nA ", ["11=1"])]
FEATURES = 3
TOKEN_SETS: list[TokenSet] = ["last_prompt", "prompt", "answer", "all"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    path = make_arms(tmp_path_factory.mktemp("arms"))["base"]
    return load_model(path).double(), load_tokenizer(path)


def some_features(items: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Codes [2, items, K] and decoder rows [2, K, d] at random."""
    random = torch.Generator().manual_seed(seed)
    codes_MIK = torch.rand(2, items, FEATURES, dtype=torch.float64, generator=random)
    return codes_MIK, torch.randn(2, FEATURES, d, dtype=torch.float64, generator=random)


@pytest.mark.parametrize("tokens", TOKEN_SETS)
def test_it_is_what_one_sequence_at_a_time_says(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase], tokens: TokenSet
) -> None:
    model, tokenizer = base
    codes_MIK, rows_MKD = some_features(len(ITEMS), model.config.hidden_size)
    found_IK = patching_effects(model, tokenizer, 1, ITEMS, codes_MIK, rows_MKD, tokens)
    for i, item in enumerate(ITEMS):
        for k in range(FEATURES):
            step_D = codes_MIK[1, i, k] * rows_MKD[1, k] - codes_MIK[0, i, k] * rows_MKD[0, k]
            changes = [
                log_probability(model, tokenizer, item, answer, step_D, tokens)
                - log_probability(model, tokenizer, item, answer, 0 * step_D, tokens)
                for answer in item.responses
            ]
            assert float(found_IK[i, k]) == pytest.approx(np.mean(changes), abs=1e-4)


@pytest.mark.parametrize("tokens", TOKEN_SETS)
def test_for_a_small_difference_it_is_the_attribution(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase], tokens: TokenSet
) -> None:
    """What it differs by is of second order: a quarter of the difference leaves a sixteenth of it."""
    model, tokenizer = base
    codes_MIK, rows_MKD = some_features(len(ITEMS), model.config.hidden_size)
    rows_MKD = 0.3 * rows_MKD
    step_IKD = codes_MIK[1, ..., None] * rows_MKD[1] - codes_MIK[0, ..., None] * rows_MKD[0]
    gradient_ID = answer_gradients(model, tokenizer, 1, ITEMS, tokens).double()
    first_IK = (step_IKD * gradient_ID[:, None]).sum(dim=-1)

    def beyond(size: float) -> float:
        found_IK = patching_effects(model, tokenizer, 1, ITEMS, size * codes_MIK, rows_MKD, tokens)
        return float((found_IK / size - first_IK).norm() / first_IK.norm())

    assert beyond(0.02) < 0.05
    assert beyond(0.1) < 0.5 * beyond(0.4)


def test_where_both_codes_are_nothing_no_model_is_run(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = base
    codes_MIK, rows_MKD = some_features(len(ITEMS), model.config.hidden_size)
    codes_MIK[:, 0] = 0
    codes_MIK[:, 1, 2] = 0
    read: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: read.append(len(inputs["input_ids"])), with_kwargs=True
    )
    found_IK = patching_effects(model, tokenizer, 1, ITEMS, codes_MIK, rows_MKD, "last_prompt")
    hook.remove()
    assert sum(read) == 3 + 2  # every answer unpatched, and two features of the second item
    assert (found_IK != 0).tolist() == [[False] * 3, [True, True, False]]


def test_a_forward_pass_reads_no_more_tokens_than_its_budget(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = base
    items = [Item(f"Q max {'9' * (37 * n % 60)}\nA ", ["1234=4", "7", ""]) for n in range(12)]
    codes_MIK, rows_MKD = some_features(len(items), model.config.hidden_size)
    whole_IK = patching_effects(model, tokenizer, 1, items, codes_MIK, rows_MKD, "all")
    monkeypatch.setattr("rlgen.features.patching.TOKENS", 60)
    read: list[Any] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: read.append(inputs["input_ids"].shape), with_kwargs=True
    )
    found_IK = patching_effects(model, tokenizer, 1, items, codes_MIK, rows_MKD, "all")
    hook.remove()
    torch.testing.assert_close(found_IK, whole_IK, rtol=1e-4, atol=1e-5)
    assert all(rows == 1 or rows * width <= 60 for rows, width in read)
    assert max(rows for rows, _ in read) > 2


def test_an_item_without_an_answer_has_none(base: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = base
    codes_MIK, rows_MKD = some_features(1, model.config.hidden_size)
    assert not patching_effects(model, tokenizer, 1, [Item("Q a\nA ", [""])], codes_MIK, rows_MKD, "all").any()
    assert patching_effects(model, tokenizer, 1, [], codes_MIK[:, :0], rows_MKD, "all").shape == (0, FEATURES)


def test_the_feature_that_writes_the_answer_comes_first(
    base: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    """After the last block a feature writes what the head reads for a token: each one another digit, one the answer."""
    model, tokenizer = base
    digits = [tokenizer(digit, add_special_tokens=False)["input_ids"][0] for digit in "0123456789"]
    rows_FD = model.get_output_embeddings().weight.detach()[digits].float()
    coder = planted(["base", "rl"], torch.stack([rows_FD, rows_FD]), layer=LAYER)
    items = [Item(f"Q max {index}\nA ", ["7"]) for index in range(6)]
    codes_MIF = torch.tensor([0.0, 5.0])[:, None, None].expand(2, len(items), len(digits))
    rows_MFD = torch.stack([coder.decoder_rows(name).detach() for name in ("base", "rl")])
    effect_IF = patching_effects(model, tokenizer, LAYER, items, codes_MIF, rows_MFD, "last_prompt").double().numpy()
    all_items = ItemValues({"a": effect_IF}, {"a": np.arange(6) < 3}, np.ones(10), np.ones(10, dtype=bool))
    found = patched_values({"a": effect_IF}, {"a": np.arange(6)}, np.arange(10), all_items)
    assert found.scores.ranked(None)[0] == 7
