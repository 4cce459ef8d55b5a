"""Edits of a live model: what they change, and what they leave alone."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlgen.crosscoder.model import Crosscoder
from rlgen.data.tasks import make_task
from rlgen.evaluation.harness import Harness
from rlgen.evaluation.positions import TokenPositions
from rlgen.interventions import edits
from rlgen.interventions.edits import Contribution, Donor, Site, surviving
from rlgen.models import edited, load_model, residuals
from rlgen.study.sections import JsonlTask, TokenSet
from rlgen.study.stages import TaskSettings
from tests.features.arms import LAYER
from tests.features.planted import planted, sparse_codes
from tests.interventions.conftest import EVALUATION, VERIFIERS

FEATURES = [3, 11, 17]


def site(positions: TokenPositions, coder: Crosscoder, tokens: TokenSet, bos: int | None = None) -> Site:
    return Site(positions, tokens, coder, slot=0, bos=bos)


def some_acts(count: int = 50, d: int = 32) -> Tensor:
    return 2 * torch.randn(count, d, generator=torch.Generator().manual_seed(4))


def here(acts_ND: Tensor) -> Tensor:
    return torch.ones(1, len(acts_ND), dtype=torch.bool)


def test_some_features_have_the_same_codes_alone(coder: Crosscoder) -> None:
    acts_ND = some_acts()
    alone = coder.part(FEATURES)
    torch.testing.assert_close(alone.swap_readout(acts_ND, 1), coder.swap_readout(acts_ND, 1)[:, FEATURES])
    torch.testing.assert_close(alone.decoder_rows(1), coder.decoder_rows(1)[FEATURES])


def test_ablation_removes_the_contribution_and_keeps_the_error() -> None:
    rows_FD = torch.linalg.qr(torch.randn(16, 6, generator=torch.Generator().manual_seed(0)))[0].T
    coder = planted(["base", "rl"], torch.stack([rows_FD, rows_FD]))
    codes_NF = sparse_codes(40, 6)
    error_ND = some_acts(40, 16)
    error_ND -= error_ND @ rows_FD.T @ rows_FD  # outside of what the features span
    acts_ND = codes_NF @ rows_FD + error_ND
    change = edits.added(edits.removed(Contribution(coder, 1, [2, 4])), 1.0)
    after_ND = change(acts_ND, here(acts_ND))
    codes_after_NF = coder.swap_readout(after_ND, 1)
    torch.testing.assert_close(codes_after_NF[:, [2, 4]], torch.zeros(40, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(codes_after_NF[:, [0, 1, 3, 5]], codes_NF[:, [0, 1, 3, 5]], atol=1e-5, rtol=0)
    torch.testing.assert_close(after_ND - codes_after_NF @ rows_FD, error_ND, atol=1e-5, rtol=0)


@pytest.mark.parametrize("other", [[5, 6, 7], None])
def test_a_control_of_ablation_injects_the_same_norm_at_every_token(coder: Crosscoder, other: list[int] | None) -> None:
    acts_ND = some_acts()
    own = Contribution(coder, 1, FEATURES)
    stand_in = Contribution(coder, 1, other) if other else None
    fallback_D = torch.ones(32)
    like = edits.as_long_as(edits.removed(own), stand_in and edits.removed(stand_in), fallback_D)
    change = edits.added(like, 1.5)
    injected_ND = change(acts_ND, here(acts_ND)) - acts_ND
    wanted_N = 1.5 * own(acts_ND).norm(dim=-1)
    assert (wanted_N == 0).any()  # where the features are silent nothing may be injected
    assert (wanted_N > 0).any()
    torch.testing.assert_close(injected_ND.norm(dim=-1), wanted_N, rtol=1e-4, atol=1e-5)
    if stand_in is not None:
        silent_N = (stand_in(acts_ND).norm(dim=-1) == 0) & (wanted_N > 0)
        unit_ND = injected_ND[silent_N] / wanted_N[silent_N, None]
        torch.testing.assert_close(unit_ND, (fallback_D / fallback_D.norm()).expand_as(unit_ND), rtol=1e-4, atol=1e-4)


def test_mean_ablation_leaves_something_fixed() -> None:
    acts_ND, remains_D = some_acts(), torch.ones(32)
    gone = edits.removed(lambda acts_ND: 0.5 * acts_ND, remains_D)  # type: ignore[arg-type]
    torch.testing.assert_close(edits.added(gone, 1.0)(acts_ND, here(acts_ND)), 0.5 * acts_ND + 1)


def test_scaling_gives_the_contribution_once_more(coder: Crosscoder) -> None:
    acts_ND = some_acts()
    own = Contribution(coder, 1, FEATURES)
    changed_ND = edits.added(edits.scaled(own), 2.0)(acts_ND, here(acts_ND))
    torch.testing.assert_close(changed_ND - acts_ND, 2 * own(acts_ND), rtol=1e-4, atol=1e-4)


def test_a_transplant_puts_the_donors_contribution_in_the_place_of_the_own() -> None:
    rows_FD = torch.linalg.qr(torch.randn(16, 6, generator=torch.Generator().manual_seed(0)))[0].T
    coder = planted(["base", "rl"], torch.stack([rows_FD, rows_FD]))
    mine_ND, theirs_ND = (sparse_codes(40, 6, seed=seed) @ rows_FD for seed in (1, 2))

    class Known:
        def read(self) -> Tensor:
            return theirs_ND[None]

    chosen = [2, 4]
    delta = edits.transplanted(Contribution(coder, 0, chosen), Contribution(coder, 1, chosen), Known())  # type: ignore[arg-type]
    after_NF = coder.swap_readout(edits.added(delta, 1.0)(mine_ND, here(mine_ND)), 0)
    mine_NF, theirs_NF = coder.swap_readout(mine_ND, 0), coder.swap_readout(theirs_ND, 1)
    assert not torch.equal(mine_NF[:, chosen], theirs_NF[:, chosen])
    torch.testing.assert_close(after_NF[:, chosen], theirs_NF[:, chosen], atol=1e-4, rtol=0)
    torch.testing.assert_close(after_NF[:, [0, 1, 3, 5]], mine_NF[:, [0, 1, 3, 5]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("tokens", ["last_prompt", "answer"])
def test_prompts_read_once_for_many_runs_give_the_same_answers(
    harness: Harness, base: PreTrainedModel, arm: PreTrainedModel, coder: Crosscoder, tokens: TokenSet
) -> None:
    donor = Donor(arm, LAYER, harness.positions)
    for change in (edits.added(edits.constant(torch.ones(32)), 0.5), edits.patch(donor)):
        with edited(base, LAYER, site(harness.positions, coder, tokens).edit(change)):
            plain = harness.run(seed=3)
            harness.watch(lambda keys, logprobs_BV: None, shares_prefixes=True)
            for _ in range(2):
                pd.testing.assert_frame_equal(harness.run(seed=3), plain)
            harness.watch(lambda keys, logprobs_BV: None, shares_prefixes=False)


@pytest.mark.parametrize("sharing", [False, True])
@pytest.mark.parametrize("task", ["max", "pick"])
def test_a_donor_reads_what_it_would_read_alone(
    base: PreTrainedModel,
    arm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[Path],
    tmp_path: Path,
    task: str,
    sharing: bool,
) -> None:
    """At every fed token: of prompts that are remembered, of their ends, of continuations, and of answers."""
    rows = [
        {"question": "q" * (n % 5 + 1), "choices": ["a", "ab c", "abba"][: n % 2 + 2], "answer": 0} for n in range(9)
    ]
    (tmp_path / "pick.jsonl").write_text(
        "".join(json.dumps({"id": f"p{n}", **row}) + "\n" for n, row in enumerate(rows))
    )
    pick = JsonlTask(name="pick", source="jsonl", path=tmp_path / "pick.jsonl", format="multiple_choice")
    make_task(TaskSettings(task=pick, evaluation=EVALUATION), out=tmp_path / "pick")
    harness = Harness(base, tokenizer, [tasks[0], tmp_path / "pick"], EVALUATION)
    harness.watch(lambda keys, logprobs_BV: None, shares_prefixes=sharing)
    donor, asked = Donor(arm, LAYER, harness.positions), [0]

    def compare(acts_BTD: Tensor) -> Tensor:
        here_BT = harness.positions.mask("all")
        if here_BT.any():  # a beginning that many runs share belongs to no token set
            wanted_BTD = residuals(arm, [LAYER], **harness.positions.inputs())[:, -here_BT.shape[1] :, 0]
            torch.testing.assert_close(donor.read()[here_BT], wanted_BTD[here_BT], rtol=1e-3, atol=1e-4)
            asked[0] += 1
        return acts_BTD

    for seed in (1, 1, 2):
        with edited(base, LAYER, compare):
            harness.run([task], seed=seed, samples=2)
    assert asked[0] >= 3
    donor.clear()
    with edited(base, LAYER, compare):
        harness.run([task], seed=1)


def test_a_donor_reads_the_ends_of_shared_prompts_once(
    harness: Harness, base: PreTrainedModel, arm: PreTrainedModel, coder: Crosscoder
) -> None:
    harness.watch(lambda keys, logprobs_BV: None, shares_prefixes=True)
    donor, fed = Donor(arm, LAYER, harness.positions), [0]
    hook = arm.register_forward_pre_hook(lambda *_: fed.__setitem__(0, fed[0] + 1))
    passes = []
    for forget in (False, False, True):
        if forget:
            donor.clear()
        fed[0] = 0
        with edited(base, LAYER, site(harness.positions, coder, "last_prompt").edit(edits.patch(donor))):
            harness.run(seed=1)
        passes.append(fed[0])
    hook.remove()
    assert passes[0] == passes[2] > 0
    assert passes[1] == 0


def test_a_control_of_nothing_is_nothing() -> None:
    """Where neither the stand-ins nor the fallback have a direction, and where the edit is silent."""
    acts_ND = some_acts()
    silent = edits.as_long_as(edits.constant(torch.zeros(32)), edits.constant(torch.ones(32)), torch.ones(32))
    assert torch.equal(edits.added(silent, 2.0)(acts_ND, here(acts_ND)), acts_ND)
    lost = edits.as_long_as(edits.constant(torch.ones(32)), edits.constant(torch.zeros(32)), torch.zeros(32))
    assert torch.equal(edits.added(lost, 2.0)(acts_ND, here(acts_ND)), acts_ND)


def test_a_transplant_keeps_the_reconstruction_error() -> None:
    """What the crosscoder does not explain of the model's own activation stays, and none of the donor's comes."""
    rows_FD = torch.linalg.qr(torch.randn(16, 6, generator=torch.Generator().manual_seed(0)))[0].T
    coder = planted(["base", "rl"], torch.stack([rows_FD, rows_FD]))
    errors = [some_acts(80, 16)[:40], some_acts(80, 16)[40:]]
    errors = [error_ND - error_ND @ rows_FD.T @ rows_FD for error_ND in errors]
    codes = [sparse_codes(40, 6, seed=seed) for seed in (1, 2)]
    mine_ND, theirs_ND = (code_NF @ rows_FD + error_ND for code_NF, error_ND in zip(codes, errors, strict=True))

    class Known:
        def read(self) -> Tensor:
            return theirs_ND[None]

    delta = edits.transplanted(Contribution(coder, 0, [2, 4]), Contribution(coder, 1, [2, 4]), Known())  # type: ignore[arg-type]
    after_ND = edits.added(delta, 1.0)(mine_ND, here(mine_ND))
    wanted_NF = codes[0].clone()
    wanted_NF[:, [2, 4]] = codes[1][:, [2, 4]]
    torch.testing.assert_close(after_ND, wanted_NF @ rows_FD + errors[0], atol=1e-4, rtol=0)


def test_encode_decode_is_the_reconstruction(coder: Crosscoder) -> None:
    acts_ND = some_acts()
    codes_NF = coder.swap_readout(acts_ND, 1)
    wanted_ND = codes_NF @ coder.decoder_rows(1) + coder.b_dec[1] / coder.scale[1] + coder.mean[1]
    torch.testing.assert_close(edits.encode_decode(coder, 1)(acts_ND, here(acts_ND)), wanted_ND)


def test_only_the_site_is_edited(coder: Crosscoder) -> None:
    positions = TokenPositions()
    ids_BT = torch.tensor([[0, 1, 20, 21], [1, 22, 23, 24]])
    positions.prefill(ids_BT, (ids_BT > 0).long())
    acts_BTD = some_acts(8).reshape(2, 4, 32)
    acts_BTD[1, 2] *= 1000  # an outlier
    limited = deepcopy(coder)
    limited.limit_M[0] = 100.0
    edit = site(positions, limited, "all", bos=1).edit(edits.added(edits.constant(torch.ones(32)), 1.0))
    changed_BT = (edit(acts_BTD) != acts_BTD).any(dim=-1)
    assert changed_BT.tolist() == [[False, False, True, True], [False, True, False, True]]
    torch.testing.assert_close(edit(acts_BTD)[changed_BT], acts_BTD[changed_BT] + 1)


@pytest.mark.parametrize("tokens", get_args(TokenSet))
def test_strength_0_changes_no_bit(
    harness: Harness, base: PreTrainedModel, coder: Crosscoder, tokens: TokenSet
) -> None:
    plain = harness.run(seed=1)
    seen: list[bool] = []
    for change in (
        edits.added(edits.constant(torch.ones(32)), 0.0),
        edits.added(edits.removed(Contribution(coder, 0, FEATURES)), 0.0),
        edits.added(edits.as_long_as(edits.removed(Contribution(coder, 0, FEATURES)), None, torch.ones(32)), 0.0),
    ):
        edit = site(harness.positions, coder, tokens).edit(change)

        def watched(acts_BTD: Tensor, edit: edits.ResidualEdit = edit) -> Tensor:
            after_BTD = edit(acts_BTD)
            seen.append(torch.equal(after_BTD, acts_BTD))
            return after_BTD

        with edited(base, LAYER, watched):
            pd.testing.assert_frame_equal(harness.run(seed=1), plain)
    assert all(seen)
    assert seen


@pytest.mark.parametrize("tokens", get_args(TokenSet))
def test_a_model_patched_with_itself_answers_as_before(
    harness: Harness, base: PreTrainedModel, arms: dict[str, Path], coder: Crosscoder, tokens: TokenSet
) -> None:
    plain = harness.run(seed=2)
    assert plain["response"].str.len().nunique() > 1  # rows end at different steps and leave the batch
    donor = Donor(load_model(arms["base"]), LAYER - 1, harness.positions)
    with edited(base, LAYER - 1, site(harness.positions, coder, tokens).edit(edits.patch(donor))):
        pd.testing.assert_frame_equal(harness.run(seed=2), plain)


def test_the_arms_last_layer_in_base_answers_as_the_arm(
    harness: Harness,
    base: PreTrainedModel,
    arm: PreTrainedModel,
    coder: Crosscoder,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[Path],
) -> None:
    wanted = Harness(arm, tokenizer, tasks, EVALUATION, VERIFIERS).run(seed=3)
    assert (wanted["response"] != harness.run(seed=3)["response"]).mean() > 0.5
    donor = Donor(arm, LAYER, harness.positions)
    with edited(base, LAYER, site(harness.positions, coder, "all").edit(edits.patch(donor))):
        pd.testing.assert_frame_equal(harness.run(seed=3), wanted)


def test_the_arms_last_prompt_token_gives_its_first_distribution(
    base: PreTrainedModel, arm: PreTrainedModel, coder: Crosscoder
) -> None:
    positions = TokenPositions()
    ids_BT = torch.tensor([[0, 1, 20, 21, 9], [1, 22, 23, 24, 9]])
    positions.prefill(ids_BT, (ids_BT > 0).long())
    wanted_BV = arm(**positions.inputs()).logits[:, -1]
    edit = site(positions, coder, "last_prompt").edit(edits.patch(Donor(arm, LAYER, positions)))
    with edited(base, LAYER, edit), torch.no_grad():
        found_BTV = base(**positions.inputs()).logits
    torch.testing.assert_close(found_BTV[:, -1], wanted_BV, rtol=1e-4, atol=1e-4)
    plain_BTV = base(**positions.inputs()).logits
    torch.testing.assert_close(found_BTV[1, :-1], plain_BTV[1, :-1])


def test_a_donor_with_a_cache_reads_what_one_without_reads(arm: PreTrainedModel) -> None:
    positions = TokenPositions()
    donor = Donor(arm, LAYER, positions)
    ids_BT = torch.randint(4, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, :2] = 0
    steps = [(5, [0, 1, 2]), (6, [0, 1, 2]), (7, [0, 2]), (9, [2])]  # rows leave; one pass is not read
    for length, rows in steps:
        inputs = ids_BT[rows, :length], mask_BT[rows, :length]
        positions.prefill(*inputs) if length == 5 else positions.step(*inputs)
        now = 5 if length == 5 else 1
        wanted_BTD = residuals(arm, [LAYER], **positions.inputs())[:, -now:, 0]
        real_BT = positions.mask("all")
        torch.testing.assert_close(donor.read()[real_BT], wanted_BTD[real_BT], rtol=1e-4, atol=1e-4)


def test_a_donor_reads_a_pass_once_however_often_it_is_asked(
    arm: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions, fed = TokenPositions(), [0]
    donor = Donor(arm, LAYER, positions)

    def counted(*given: Any, **inputs: Any) -> Tensor:
        fed[0] += inputs["input_ids"].shape[1]
        return residuals(*given, **inputs)

    monkeypatch.setattr(edits, "residuals", counted)
    ids_BT = torch.randint(4, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    for length in (7, 8, 9):
        inputs = ids_BT[:, :length], torch.ones(3, length, dtype=torch.long)
        positions.prefill(*inputs) if length == 7 else positions.step(*inputs)
        assert donor.read() is donor.read()
    assert fed[0] == 9  # every token once: an edit and its controls share a pass


def test_which_rows_survive() -> None:
    before = [[1, 2], [3, 4], [1, 2], [5, 6]]
    assert surviving(before, [[1, 2], [1, 2], [5, 6]]) == [0, 2, 3]
    assert surviving(before, [[5, 6], [3, 4]]) is None
