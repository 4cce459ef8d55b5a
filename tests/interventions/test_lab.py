"""One live model under every edit: what is tried, where, in which portions."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from rlgen.crosscoder.model import Crosscoder
from rlgen.data.tasks import make_task
from rlgen.interventions import edits, effects
from rlgen.interventions.edits import Contribution, Site
from rlgen.interventions.lab import Condition, Lab
from rlgen.interventions.localised import Localised
from rlgen.interventions.slopes import STRENGTH, slopes
from rlgen.models import edited, residuals
from rlgen.stage import Workspace
from rlgen.study.sections import Edit, JsonlTask, TokenSet
from rlgen.study.stages import TaskSettings
from tests.features.arms import LAYER
from tests.features.planted import write_rates
from tests.interventions.conftest import EVALUATION
from tests.interventions.test_evaluate import SETTINGS, write_localisation

MakeLab = Callable[..., Lab]
EDITED = [(effects.EFFECT, 0), (effects.MATCHED, 0), (effects.MATCHED, 2), (effects.DIRECTION, 1), (effects.SWEEP, 1)]
SWEEP = [0.5, 3.0]


@pytest.fixture
def make_lab(
    arms: dict[str, Path], tasks: list[Path], coder: Crosscoder, coder_folder: Path, tmp_path: Path
) -> MakeLab:
    rates = write_rates(tmp_path / "diagnostics", [0.1 + 0.01 * k for k in range(40)])
    upper = Localised.read(write_localisation(tmp_path / "upper", [3, 11, 17], coder), coder_folder, rates)
    lower_coder = deepcopy(coder)
    lower_coder.config = replace(coder.config, layer=LAYER - 1)
    lower_coder.save_pretrained(tmp_path / "base-rl.layer=1")
    localisation = write_localisation(tmp_path / "lower", [5, 20], coder)
    lower = Localised.read(localisation, tmp_path / "base-rl.layer=1", rates)

    def make(edit: str, tokens: TokenSet = "last_prompt", layers: int = 1, **settings: Any) -> Lab:
        changed = {"edit": Edit(alpha=2.0, tokens=tokens, sweep=SWEEP), **settings}
        return Lab(edit, SETTINGS.model_copy(update=changed), [upper, lower][:layers], arms, tasks)

    return make


def test_everything_is_tried_once(make_lab: MakeLab) -> None:
    found = make_lab("transplant").conditions
    assert found[0] == ("effect", 0)
    assert len(found) == len(set(found))
    wanted = {"effect": 1, "encode_decode": 1, "ceiling": 1, "matched_random": 3, "random_direction": 2, "sweep": 2}
    assert Counter(name for name, _ in found) == wanted


@pytest.mark.parametrize("tokens", get_args(TokenSet))
@pytest.mark.parametrize("edit", effects.EDITED)
def test_every_draw_injects_the_edits_norm_at_every_token_of_every_layer(
    make_lab: MakeLab, edit: str, tokens: TokenSet
) -> None:
    lab = make_lab(edit, tokens, layers=2)
    ids_BT = torch.tensor([[0, 1, 20, 21, 9], [1, 22, 23, 24, 9]])
    positions = lab.harness.positions
    positions.prefill(ids_BT, (ids_BT > 0).long())
    if tokens == "answer":
        positions.step(ids_BT, (ids_BT > 0).long())
    here_BT = positions.mask(tokens)
    acts_BTMD = residuals(lab.model, [found.layer for found in lab.localised], **positions.inputs())
    for index in range(2):
        acts_ND = acts_BTMD[:, -here_BT.shape[1] :, index][here_BT]

        def injected(condition: Condition, index: int = index, acts_ND: Tensor = acts_ND) -> Tensor:
            return (lab.changes(condition)[index](acts_ND, here_BT) - acts_ND).norm(dim=-1)

        wanted_N = injected((effects.EFFECT, 0))
        assert (wanted_N > 0).any()
        for condition in lab.conditions:
            if condition[0] in (effects.MATCHED, effects.DIRECTION):
                torch.testing.assert_close(injected(condition), wanted_N, rtol=1e-3, atol=1e-3)
            elif condition[0] == effects.SWEEP:
                torch.testing.assert_close(injected(condition), SWEEP[condition[1]] * wanted_N, rtol=1e-3, atol=1e-3)


def test_matched_sets_act_along_their_own_features(make_lab: MakeLab) -> None:
    """Of an ablation in the arm, away from what the stand-ins contribute there."""
    lab = make_lab("ablate")
    (found,) = lab.localised
    acts_ND = 2 * torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
    stand_ins = lab.draws[0][1]
    changed_ND = lab.changes((effects.MATCHED, 1))[0](acts_ND, torch.ones(1, 40, dtype=torch.bool)) - acts_ND
    theirs_ND = Contribution(found.crosscoder, 1, stand_ins)(acts_ND)
    both_N = (changed_ND.norm(dim=-1) > 0) & (theirs_ND.norm(dim=-1) > 0)
    assert both_N.sum() > 10
    cosine_N = torch.cosine_similarity(changed_ND[both_N], theirs_ND[both_N])
    torch.testing.assert_close(cosine_N, -torch.ones_like(cosine_N), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("edit", "model"), [("ablate", 1), ("scale", 0), ("amplify", 0), ("mean_ablate", 1)])
def test_two_layers_at_once_are_both_hooks_by_hand(make_lab: MakeLab, edit: str, model: int) -> None:
    lab = make_lab(edit, layers=2)
    (portion,) = lab.portions
    lab.references(portion)
    found = lab.run((effects.EFFECT, 0), portion)
    with ExitStack() as hooks:
        for localised in lab.localised:
            coder = localised.crosscoder
            contribution = Contribution(coder, model, localised.features)
            change = {
                "ablate": edits.added(edits.removed(contribution), 2.0),
                "mean_ablate": edits.added(edits.removed(contribution, localised.decoded["arm"].sum(0)), 2.0),
                "scale": edits.added(edits.scaled(contribution), 2.0),
                "amplify": edits.added(edits.constant(localised.steps_KD.sum(0)), 2.0),
            }[edit]
            site = Site(lab.harness.positions, "last_prompt", coder, model, lab.harness.bos)
            hooks.enter_context(edited(lab.model, localised.layer, site.edit(change)))
        by_hand = lab._ask(lab.harness, portion)
    pd.testing.assert_frame_equal(found[by_hand.columns], by_hand)
    alone = make_lab(edit)
    alone.references(portion)
    assert (alone.run((effects.EFFECT, 0), portion)["kl_base"] != found["kl_base"]).any()


@pytest.mark.parametrize("tokens", get_args(TokenSet))
@pytest.mark.parametrize("edit", ["transplant", "revert"])
def test_a_transplant_from_the_model_itself_changes_nothing(
    make_lab: MakeLab, arms: dict[str, Path], edit: str, tokens: TokenSet
) -> None:
    """The crosscoder must read both models alike, too: by one mean and scale, and one decoder."""
    lab = make_lab(edit, tokens)
    lab._models = dict.fromkeys(arms, arms["base"])
    coder = deepcopy(lab.localised[0].crosscoder)
    with torch.no_grad():
        coder.W_dec[:, 1] = coder.W_dec[:, 0]
        for per_model in (coder.mean, coder.scale, coder.b_dec):
            per_model[1] = per_model[0]
    lab.localised = [replace(lab.localised[0], crosscoder=coder)]
    (portion,) = lab.portions
    unedited = lab.references(portion)[effects.BASELINE, 0]
    for condition in EDITED:
        found = lab.run(condition, portion)
        assert found["response"].tolist() == unedited["response"].tolist()
        assert found[["kl_base", "kl_arm"]].to_numpy() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("edit", ["transplant", "revert", "amplify"])
def test_the_ceiling_of_the_last_layer_turns_the_decision_into_the_others(make_lab: MakeLab, edit: str) -> None:
    lab = make_lab(edit)
    (portion,) = lab.portions
    references = lab.references(portion)
    other = {"base": "kl_arm", "arm": "kl_base"}[lab.here]
    assert references[effects.BASELINE, 0][other].mean() > 0.1
    assert lab.run((effects.CEILING, 0), portion)[other].to_numpy() == pytest.approx(0, abs=1e-5)
    assert references[effects.DONOR, 0][other].tolist() == [0.0] * len(references[effects.DONOR, 0])


def test_portions_hold_every_item_once_and_no_more_tokens_than_they_may(make_lab: MakeLab) -> None:
    (whole,) = make_lab("ablate").portions
    lab = make_lab("ablate", portion_tokens=100)
    assert len(lab.portions) > 3
    for task, items in whole.items():
        assert [item for portion in lab.portions for item in portion.get(task, [])] == items
    lengths = {(task, item): len(ids) for task in whole for item, ids in lab.harness.prompt_ids(task).items()}
    for portion in lab.portions:
        assert sum(lengths[task, item] for task, items in portion.items() for item in items) <= 100
    alone = make_lab("ablate", portion_tokens=1)
    assert len(alone.portions) == sum(map(len, whole.values())), "a longer prompt is alone"


def test_a_portions_prompts_are_forgotten_with_it(make_lab: MakeLab) -> None:
    lab = make_lab("transplant", portion_tokens=100)
    kept = []
    for portion in lab.portions[:3]:
        lab.references(portion)
        lab.run((effects.EFFECT, 0), portion)
        harnesses = [lab.harness, lab.donor_harness]
        kept.append([len(harness._live.prefixes._kept) for harness in harnesses] + [len(lab._donors[0]._prompts)])
    assert kept[0] == kept[1] == kept[2]


def test_items_with_one_prompt_are_asked_together(make_lab: MakeLab, tmp_path: Path) -> None:
    """Random numbers follow from how often a prompt was asked, and so would be the same in two portions."""
    rows = [{"id": f"q{n}", "question": "1" * (n % 4 + 1), "answer": "2"} for n in range(12)]
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = JsonlTask(name="twice", source="jsonl", path=path, format="generate")
    make_task(TaskSettings(task=task, evaluation=EVALUATION), out=tmp_path / "twice")
    whole, parts = make_lab("ablate"), make_lab("ablate", portion_tokens=1)
    frames = []
    for lab in (whole, parts):
        lab._tasks = [tmp_path / "twice"]
        found = pd.concat([lab.references(portion)[effects.BASELINE, 0] for portion in lab.portions])
        frames.append(found.set_index(["item", "sample"])["response"].sort_index())
    assert [len(portion["twice"]) for portion in parts.portions] == [3, 3, 3, 3]
    assert frames[0].index.equals(frames[1].index)
    assert (frames[0] == frames[1]).mean() > 0.9  # but for rounding in another batch
    assert len(set(frames[1]["q0"]) | set(frames[1]["q4"])) > 1, "each has its own random numbers"


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    (tmp_path / "scratch").mkdir()
    return Workspace("intervene", tmp_path, 0.0, {})


@pytest.mark.parametrize("edit", ["transplant", "ablate"])
def test_is_the_fall_of_the_divergence_at_a_tenth_of_the_strength(
    make_lab: MakeLab,
    work: Workspace,
    edit: str,
) -> None:
    lab = make_lab(edit)
    found = slopes(work, lab, [0.0, 1.0, 2.0])
    assert found is not None
    other = make_lab(edit)
    other.__dict__["alpha"] = STRENGTH * lab.alpha
    prompts = [
        other.harness.prompt_ids(task)[item]
        for task in other.settings.groups["transfer"]
        for item in other.localised[0].measurement_items.get(task, list(other.harness.prompt_ids(task)))
    ]
    column = "kl_arm" if other.here == "base" else "kl_base"
    other.decide((effects.DONOR, 0), prompts)
    before = other.decide((effects.BASELINE, 0), prompts)[column].mean()
    after = other.decide((effects.EFFECT, 0), prompts)[column].mean()
    assert found["edit"] == pytest.approx((before - after) / STRENGTH, abs=1e-4)
    assert len(found["matched"]) == lab.settings.draws


def test_the_correlation_is_with_the_effects(make_lab: MakeLab, work: Workspace) -> None:
    lab = make_lab("transplant")
    first = slopes(work, lab, [0.0, 1.0, 2.0])
    assert first is not None
    again = slopes(work, lab, [2 * slope - 1 for slope in first["matched"]])
    assert again is not None
    assert again["matched"] == first["matched"]
    assert again["correlation"] == pytest.approx(1.0)
    against = slopes(work, lab, [-slope for slope in first["matched"]])
    assert against is not None
    assert against["correlation"] == pytest.approx(-1.0)
    assert np.isfinite(first["correlation"])


def test_is_not_asked_elsewhere_or_of_an_edit_of_nothing(make_lab: MakeLab, work: Workspace) -> None:
    assert slopes(work, make_lab("transplant", "all"), [0.0, 1.0, 2.0]) is None
    lab = make_lab("transplant")
    assert slopes(work, lab, None) is None
    lab.__dict__["alpha"] = 0.0
    assert slopes(work, lab, [0.0, 1.0, 2.0]) is None
