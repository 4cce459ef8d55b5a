"""The intervene stage: every control is there, nothing is lost by an interruption."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from rlgen.crosscoder.model import Crosscoder
from rlgen.errors import StudyError
from rlgen.interventions.evaluate import Condition, Lab, Localised, intervene
from rlgen.study.sections import Amplification, Edit
from rlgen.study.stages import InterveneSettings
from tests.features.planted import write_rates
from tests.interventions.conftest import EVALUATION

SETTINGS = InterveneSettings(
    edit=Edit(alpha=3.0, tokens="all"),
    draws=3,
    directions=2,
    samples=2,
    bootstrap=50,
    evaluation=EVALUATION,
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
    (folder / "localisation.json").write_text(json.dumps(found))
    return folder


@pytest.fixture
def given(
    arms: dict[str, Path], tasks: list[Path], coder: Crosscoder, coder_folder: Path, tmp_path: Path
) -> dict[str, Any]:
    return {
        "crosscoder": coder_folder,
        "localisation": write_localisation(tmp_path / "localisation", [3, 11, 17], coder),
        "diagnostics": write_rates(tmp_path / "diagnostics", [0.1 + 0.01 * k for k in range(40)]),
        "models": arms,
        "tasks": tasks,
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
    given["localisation"] = write_localisation(tmp_path / "other", features, coder)
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

    def breaking(lab: Lab, condition: Condition) -> pd.DataFrame:
        done.append(condition)
        if len(done) == 5:
            raise KeyboardInterrupt
        return run(lab, condition)

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
    coder = Crosscoder.from_pretrained(given["crosscoder"])
    usual = coder.config.d**0.5 / float(coder.scale[0])  # activations are scaled to a mean norm of sqrt(d)
    assert found["alpha"] * found["shift_norm"] == pytest.approx(0.3 * usual)


def test_every_draw_injects_the_norm_that_the_edit_does(given: dict[str, Any], coder: Crosscoder) -> None:
    localised = Localised.read(given["localisation"], given["crosscoder"], given["diagnostics"])
    base_FD, arm_FD = (coder.decoder_rows(slot).detach()[[3, 11, 17]] for slot in (0, 1))
    codes_K = 2.0 + torch.tensor([3, 11, 17]) / 10
    torch.testing.assert_close(localised.steps_KD, codes_K[:, None] * arm_FD - base_FD)
    settings = SETTINGS.model_copy(update={"edit": Amplification(norm=0.3)})
    lab = Lab("amplify", settings, localised, given["models"], given["tasks"])
    nothing_ND = torch.zeros(1, coder.config.d)
    draws = [
        condition for condition in lab.conditions if condition[0] in ("effect", "matched_random", "random_direction")
    ]
    assert len(draws) == 1 + 3 + 2
    for condition in draws:
        change = lab.change(condition)
        assert change is not None
        injected = change(nothing_ND, torch.ones(1, 1, dtype=torch.bool)).norm()
        assert float(injected) == pytest.approx(0.3 * coder.config.d**0.5 / float(coder.scale[0]), rel=1e-4)
