"""The intervene stage: every control is there, nothing is lost by an interruption."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from rlgen.crosscoder.model import Crosscoder
from rlgen.errors import StudyError
from rlgen.interventions.compare import compare
from rlgen.interventions.evaluate import intervene
from rlgen.interventions.lab import Condition, Lab, Portion
from rlgen.interventions.localised import Localised
from rlgen.study.sections import Amplification, Edit
from rlgen.study.stages import CompareSettings, InterveneSettings
from tests.data.corpora import write_corpus
from tests.features.planted import write_rates
from tests.interventions.conftest import EVALUATION, VERIFIERS

SETTINGS = InterveneSettings(
    edit=Edit(alpha=3.0, tokens="all"),
    draws=3,
    directions=2,
    samples=2,
    bootstrap=50,
    evaluation=EVALUATION,
    verifiers=VERIFIERS,
    groups={"train_domain": [], "transfer": ["max", "cnt"], "unseen": ["min"]},
)


def write_localisation(folder: Path, features: list[int], coder: Crosscoder) -> Path:
    folder.mkdir()
    rows = [
        {"feature": k, "task": task, "score": 1.0 + k / 10, "mean_code_base": 1.0, "mean_code_arm": 2.0 + k / 10}
        for task in ("max", "cnt")
        for k in range(coder.config.features)
    ]
    pd.DataFrame(rows).to_parquet(folder / "scores.parquet")
    measured = {task: [f"{task}-{i}" for i in range(10, 20)] for task in ("max", "cnt")}
    per_task = {task: {"n_items": 4} for task in measured}
    found = {"arm": "rl", "features": features, "per_task": per_task, "measurement_items": measured}
    found |= {"selection_items": {task: [f"{task}-{i}" for i in range(10)] for task in measured}}
    (folder / "localisation.json").write_text(json.dumps(found))
    return folder


def some_text(folder: Path) -> Path:
    ids = np.random.default_rng(0).integers(4, 40, (6, 32)).astype(np.int32)
    return write_corpus(folder, ids, np.zeros_like(ids), np.ones(ids.shape, dtype=bool))


@pytest.fixture
def given(
    arms: dict[str, Path], tasks: list[Path], coder: Crosscoder, coder_folder: Path, tmp_path: Path
) -> dict[str, Any]:
    return {
        "crosscoder": [coder_folder],
        "localisation": [write_localisation(tmp_path / "localisation", [3, 11, 17], coder)],
        "diagnostics": [write_rates(tmp_path / "diagnostics", [0.1 + 0.01 * k for k in range(40)])],
        "models": arms,
        "tasks": tasks,
        "corpus": some_text(tmp_path / "corpus"),
    }


def read(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    return pd.read_parquet(folder / "items.parquet"), json.loads((folder / "effects.json").read_text())


@pytest.mark.parametrize("edit", ["amplify", "ablate"])
def test_every_condition_is_measured_on_the_measurement_items(given: dict[str, Any], tmp_path: Path, edit: str) -> None:
    intervene(edit, SETTINGS, **given, out=tmp_path / edit)
    items, found = read(tmp_path / edit)
    counts = items.groupby("condition")["draw"].nunique().to_dict()
    single = dict.fromkeys(["baseline", "donor", "effect", "encode_decode", "ceiling"], 1)
    assert counts == {**single, "matched_random": 3, "random_direction": 2}
    per_task = items[items["condition"] == "effect"].groupby("task").size().to_dict()
    assert per_task == {"max": 20, "cnt": 20, "min": 40}  # two samples; all of an unseen task's items
    assert items.loc[items["task"] == "max", "item"].str.removeprefix("max-").astype(int).min() == 10
    assert found["model"] == {"amplify": "base", "ablate": "rl"}[edit]
    assert set(found["tasks"]) == {"max", "cnt", "min"}
    assert found["groups"]["train_domain"] is None
    transfer = found["groups"]["transfer"]
    assert transfer["n"] == 20
    mean = sum(found["tasks"][task]["effect"] for task in ("max", "cnt")) / 2
    assert transfer["effect"] == pytest.approx(mean)
    assert found["likeness"]["transfer"]["effect"]["like_base"] < 1
    assert all(not set(chosen) & {3, 11, 17} for chosen in found["matched_features"])


@pytest.mark.parametrize(("features", "alpha"), [([], 3.0), ([3, 11], 0.0)])
def test_nothing_to_edit_changes_nothing(
    given: dict[str, Any], coder: Crosscoder, tmp_path: Path, features: list[int], alpha: float
) -> None:
    given["localisation"] = [write_localisation(tmp_path / "other", features, coder)]
    settings = SETTINGS.model_copy(update={"edit": Edit(alpha=alpha)})
    intervene("amplify", settings, **given, out=tmp_path / "out")
    items, found = read(tmp_path / "out")
    answers = items.set_index(["condition", "draw", "task", "item", "sample"])["answer"].sort_index()
    for name in ("effect", "matched_random", "random_direction"):
        assert (answers.loc[name, 0] == answers.loc["baseline", 0]).all()
        assert found["groups"]["transfer"]["matched_random"]["p"] == 1
    assert (answers.loc["ceiling", 0] != answers.loc["baseline", 0]).any()


def test_an_interrupted_run_ends_as_an_undisturbed_one(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intervene("amplify", SETTINGS, **given, out=tmp_path / "whole")
    done: list[Condition] = []
    run = Lab.run

    def breaking(lab: Lab, condition: Condition, portion: Portion) -> pd.DataFrame:
        done.append(condition)
        if len(done) == 5:
            raise KeyboardInterrupt
        return run(lab, condition, portion)

    monkeypatch.setattr(Lab, "run", breaking)
    with pytest.raises(KeyboardInterrupt):
        intervene("amplify", SETTINGS, **given, out=tmp_path / "again")
    intervene("amplify", SETTINGS, **given, out=tmp_path / "again")
    assert len(done) == len(set(done)) + 1
    for file in ("items.parquet", "effects.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_an_unknown_edit_is_refused(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="ablate"):
        intervene("delete", SETTINGS, **given, out=tmp_path / "out")


def test_a_strength_given_as_a_norm_is_the_injected_norm(given: dict[str, Any], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"edit": Amplification(norm=0.3, tokens="last_prompt")})
    intervene("amplify", settings, **given, out=tmp_path / "amplify")
    _, found = read(tmp_path / "amplify")
    coder = Crosscoder.from_pretrained(given["crosscoder"][0])
    usual = coder.config.d**0.5 / float(coder.scale[0])  # activations are scaled to a mean norm of sqrt(d)
    assert found["alpha"] * found["shift_norm"] == pytest.approx(0.3 * usual)


def test_every_draw_injects_the_norm_that_the_edit_does(given: dict[str, Any], coder: Crosscoder) -> None:
    localised = Localised.read(given["localisation"][0], given["crosscoder"][0], given["diagnostics"][0])
    base_FD, arm_FD = (coder.decoder_rows(slot).detach()[[3, 11, 17]] for slot in (0, 1))
    codes_K = 2.0 + torch.tensor([3, 11, 17]) / 10
    torch.testing.assert_close(localised.steps_KD, codes_K[:, None] * arm_FD - base_FD)
    settings = SETTINGS.model_copy(update={"edit": Amplification(norm=0.3)})
    lab = Lab("amplify", settings, [localised], given["models"], given["tasks"])
    nothing_ND = torch.zeros(1, coder.config.d)
    draws = [
        condition for condition in lab.conditions if condition[0] in ("effect", "matched_random", "random_direction")
    ]
    assert len(draws) == 1 + 3 + 2
    for condition in draws:
        (change,) = lab.changes(condition).values()
        injected = change(nothing_ND, torch.ones(1, 1, dtype=torch.bool)).norm()
        assert float(injected) == pytest.approx(0.3 * coder.config.d**0.5 / float(coder.scale[0]), rel=1e-4)


@pytest.mark.parametrize("edit", ["amplify", "transplant", "scale", "ablate", "mean_ablate", "revert"])
def test_every_draw_of_every_edit_injects_its_norm_at_every_token(given: dict[str, Any], edit: str) -> None:
    localised = Localised.read(given["localisation"][0], given["crosscoder"][0], given["diagnostics"][0])
    settings = SETTINGS.model_copy(update={"edit": Edit(alpha=2.0, tokens="last_prompt", sweep=[0.5])})
    lab = Lab(edit, settings, [localised], given["models"], given["tasks"])
    norms: dict[Condition, list[torch.Tensor]] = {}

    def watched(condition: Condition) -> Any:
        (change,) = lab.changes(condition).values()

        def watch(acts_ND: torch.Tensor, here_BT: torch.Tensor) -> torch.Tensor:
            after_ND = change(acts_ND, here_BT)
            norms.setdefault(condition, []).append((after_ND - acts_ND).norm(dim=-1))
            return after_ND

        return {0: watch}

    (portion,) = lab.portions
    lab.references(portion)
    for condition in [("effect", 0), ("matched_random", 1), ("random_direction", 0), ("sweep", 0)]:
        with lab.edited(watched(condition)):
            lab._ask(lab.harness, portion)
    wanted = torch.cat(norms["effect", 0])
    assert (wanted > 0).any()
    for condition, share in ((("matched_random", 1), 1.0), (("random_direction", 0), 1.0), (("sweep", 0), 0.5)):
        torch.testing.assert_close(torch.cat(norms[condition]), share * wanted, rtol=1e-3, atol=1e-3)


def test_small_portions_give_what_one_gives(given: dict[str, Any], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"edit": Edit(tokens="last_prompt")})
    intervene("transplant", settings, **given, out=tmp_path / "whole")
    intervene("transplant", settings.model_copy(update={"portion_tokens": 100}), **given, out=tmp_path / "parts")
    key = ["condition", "draw", "task", "item", "sample"]
    whole, parts = (read(tmp_path / name)[0].sort_values(key, ignore_index=True) for name in ("whole", "parts"))
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-3, atol=1e-4)


def test_no_more_items_than_asked_for(given: dict[str, Any], tmp_path: Path) -> None:
    intervene("transplant", SETTINGS.model_copy(update={"items": 4}), **given, out=tmp_path / "out")
    items, _ = read(tmp_path / "out")
    assert items.groupby("task")["item"].nunique().to_dict() == {"max": 4, "cnt": 4, "min": 4}


def test_the_unedited_model_is_itself_and_a_push_changes_text(given: dict[str, Any], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"edit": Edit(alpha=8.0, tokens="last_prompt")})
    intervene("amplify", settings, **given, out=tmp_path / "out")
    items, found = read(tmp_path / "out")
    kl = items.groupby("condition")[["kl_base", "kl_arm"]].mean()
    assert kl.loc["baseline", "kl_base"] == 0
    assert kl.loc["donor", "kl_arm"] == 0
    assert kl.loc["effect", "kl_base"] > 0
    assert found["turned"]["transfer"]["towards"] == "arm"
    harm = found["damage"]
    assert harm["unedited"] > 0
    assert abs(harm["edited"] - harm["unedited"]) > 1e-3
    assert len(harm["matched_random"]) == 3


def test_two_layers_are_edited_together(given: dict[str, Any], coder: Crosscoder, tmp_path: Path) -> None:
    other = deepcopy(coder)
    other.config = replace(coder.config, layer=coder.config.layer - 1)
    other.save_pretrained(tmp_path / "lower")
    both = given | {key: given[key] * 2 for key in ("localisation", "diagnostics")}
    both["crosscoder"] = [*given["crosscoder"], tmp_path / "lower"]
    settings = SETTINGS.model_copy(update={"edit": Edit(alpha=2.0, tokens="last_prompt")})
    intervene("ablate", settings, **both, out=tmp_path / "both")
    intervene("ablate", settings, **given, out=tmp_path / "one")
    (two, found), (one, _) = (read(tmp_path / name) for name in ("both", "one"))
    assert [layer["layer"] for layer in found["layers"]] == [coder.config.layer, coder.config.layer - 1]
    changed = {
        name: frame[frame["condition"] == "effect"]["kl_arm"].to_numpy() for name, frame in (("2", two), ("1", one))
    }
    assert (changed["2"] != changed["1"]).any()
    with pytest.raises(StudyError, match="one crosscoder a layer"):
        intervene("ablate", settings, **(both | {"crosscoder": given["crosscoder"] * 2}), out=tmp_path / "same")


def test_the_oracle_tries_what_is_active_and_scores_stand_beside_it(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    localisation = given["localisation"][0]
    found = json.loads((localisation / "localisation.json").read_text())
    (localisation / "localisation.json").write_text(json.dumps(found | {"by_score": {"attribution": [3, 11, 17]}}))
    scores = pd.read_parquet(localisation / "scores.parquet")
    scores.loc[scores["feature"] >= 20, ["mean_code_base", "mean_code_arm"]] = 0.0
    scores.assign(attribution=scores["feature"] / 10).to_parquet(localisation / "scores.parquet")
    paths = {key: given[key][0] for key in ("crosscoder", "localisation", "diagnostics")}
    rest = {key: given[key] for key in ("models", "tasks")}
    elsewhere = CompareSettings(**dict(SETTINGS))
    with pytest.raises(StudyError, match="last_prompt"):
        compare("amplify", elsewhere, **paths, **rest, out=tmp_path / "comparison")
    settings = elsewhere.model_copy(update={"edit": Edit(tokens="last_prompt")})
    asked = []
    ask = Lab.references
    monkeypatch.setattr(Lab, "references", lambda lab, portion: asked.append(portion) or ask(lab, portion))
    compare("amplify", settings, **paths, **rest, out=tmp_path / "comparison")
    assert len(asked) == 1  # all choices are held against the same answers
    table = pd.read_parquet(tmp_path / "comparison" / "oracle.parquet")
    described = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert sorted(table["feature"]) == list(range(20))
    best = table.sort_values("oracle", ascending=False)["feature"].head(3).tolist()
    assert described["methods"]["oracle"]["features"] == best
    assert described["methods"]["oracle"]["of_oracle"] == 1
    assert set(described["methods"]) == {"attribution", "oracle", "random"}
    assert -1 <= described["methods"]["attribution"]["rank_correlation"] <= 1
