"""Every architecture answers rightly from caches, in batches and after shared prompts, or is refused in one line."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.data.miniature import build_tokenizer
from rlgen.errors import StudyError
from rlgen.evaluation.lm import LiveLM
from rlgen.interventions.edits import Donor
from rlgen.model_checks import check_loaded
from rlgen.models import decoder_blocks, edited, residuals
from rlgen.posttrain.adopt import adopt
from rlgen.study.sections import ExistingBase
from rlgen.study.stages import AdoptSettings
from tests.architectures import APART, MIXING, RECURRENT, REFUSED, build, save

ENDS = set(range(3, 64, 5))
"""Tokens that end an answer: some answers of a batch end before others."""
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    found = build_tokenizer()
    found.padding_side = "left"
    return found


def faults(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [f"{found.name}: {found.fault}" for found in check_loaded(model, tokenizer) if found.fault]


@PRECISIONS
@pytest.mark.parametrize("family", APART)
def test_a_model_with_attention_alone_has_no_fault(
    family: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert faults(build(family, APART[family]).to(dtype), tokenizer) == []


@PRECISIONS
@pytest.mark.parametrize("family", [*MIXING, *RECURRENT])
def test_a_model_that_mixes_documents_has_no_other_fault(
    family: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase
) -> None:
    (fault,) = faults(build(family, (MIXING | RECURRENT)[family]).to(dtype), tokenizer)
    assert re.match(r"packed documents apart: .* lets the documents of a row see one another", fault)


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_used_is_refused_at_adoption_in_one_line(family: str, tmp_path: Path) -> None:
    given, message = REFUSED[family]
    folder = save(build(family, given), tmp_path / "model")
    with pytest.raises(StudyError, match=message) as refused:
        adopt(AdoptSettings(model=ExistingBase(method="existing", path=str(folder))), out=tmp_path / "base")
    assert str(refused.value).startswith(f"{folder}: ")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "base").exists()


def answers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], batch: int) -> Any:
    """Greedy answers by the harness's interface."""
    lm = LiveLM(model, tokenizer, batch)
    lm._end_tokens = ENDS
    found = []
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        longest = max(map(len, some))
        ids_BT = torch.tensor([[0] * (longest - len(ids)) + ids for ids in some])
        mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in some])
        written = lm._model_generate(ids_BT, longest + 12, [], attention_mask=mask_BT, do_sample=False)
        found += [row[longest:].tolist() for row in written]
    return found


def plain(model: PreTrainedModel, ids: list[int]) -> list[int]:
    """A greedy answer by plain forward passes."""
    found: list[int] = []
    while len(found) < 12 and not ENDS & set(found):
        found.append(int(model(input_ids=torch.tensor([ids + found]), use_cache=False).logits[0, -1].argmax()))
    return found + [build_tokenizer().pad_token_id] * (12 - len(found))


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma2", *RECURRENT])
def test_answers_are_those_of_plain_forward_passes(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Whatever shares the batch, and although some answers end before others."""
    model = build(family, (APART | RECURRENT)[family])
    random = torch.Generator().manual_seed(1)
    lengths = (3, 9, 1, 6, 14, 2)
    prompts = [torch.randint(3, 40, (length,), generator=random).tolist() for length in lengths]
    wanted = [plain(model, ids) for ids in prompts]
    assert answers(model, tokenizer, prompts, 6) == wanted
    assert answers(model, tokenizer, prompts, 1) == wanted


@pytest.mark.parametrize("family", ["llama", "gemma3_text", *RECURRENT])
def test_log_likelihoods_after_shared_prompts_are_the_same(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = build(family, (APART | RECURRENT)[family])
    contexts = ([1, 20, 21, 22, 23], [1, 24], [5], [1, 20, 21, 22, 23], list(range(3, 15)))
    requests = [(("", ""), ids, more) for ids in contexts for more in ([30], [31, 32], [33, 34, 35])]
    wanted = [score for score, _ in LiveLM(model, tokenizer, 4)._loglikelihood_tokens(requests)]
    sharing = LiveLM(model, tokenizer, 4)
    sharing.shares_prefixes = True
    for _ in range(2):
        found = [score for score, _ in sharing._loglikelihood_tokens(requests)]
        assert found == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("family", RECURRENT)
def test_the_residual_stream_is_read_and_edited(family: str) -> None:
    model = build(family, RECURRENT[family])
    ids = torch.randint(3, 40, (2, 12), generator=torch.Generator().manual_seed(0))
    assert len(decoder_blocks(model)) == 4
    with torch.no_grad():
        plain_BTV = model(input_ids=ids).logits
        found = residuals(model, [1, 2], input_ids=ids)
        with edited(model, 2, torch.zeros_like):
            assert not torch.equal(model(input_ids=ids).logits, plain_BTV)
    assert found.shape == (2, 12, 2, model.config.hidden_size)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", *RECURRENT])
def test_a_donor_reads_alongside_what_a_plain_pass_reads(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = build(family, (APART | RECURRENT)[family])
    lm = LiveLM(model, tokenizer, 4)
    donor = Donor(copy.deepcopy(model), 1, lm.positions)
    seen: list[tuple[Tensor, Tensor]] = []

    def edit(acts_BTD: Tensor) -> Tensor:
        seen.append((donor.read(), acts_BTD))
        return acts_BTD

    ids_BT = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12], [0, 0, 0, 0, 13]])
    lm._end_tokens = ENDS
    with edited(model, 1, edit):
        lm._model_generate(ids_BT, 13, [], attention_mask=(ids_BT > 0).long(), do_sample=False)
    assert len(seen) > 1
    for read, here in seen:
        torch.testing.assert_close(read[:, -1], here[:, -1], rtol=1e-3, atol=1e-3)


@PRECISIONS
def test_a_state_that_fades_within_a_document_is_seen(dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase) -> None:
    sizes = {"state_size": 4, "num_heads": 4, "head_dim": 16, "n_groups": 1, "num_hidden_layers": 2}
    given = {**sizes, "initializer_range": 0.1}
    (fault,) = faults(build("mamba2", given).to(dtype), tokenizer)
    assert fault.startswith("packed documents apart: ")
