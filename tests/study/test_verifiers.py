"""Which stages read the study's verifier, and how a bad one is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlgen.errors import StudyError
from rlgen.study import parse_study
from rlgen.study.stages import (
    CompareSettings,
    EvaluateSettings,
    GrpoSettings,
    InterveneSettings,
    ProblemsSettings,
    StageSettings,
    TaskSettings,
)
from rlgen.study.study import Study
from tests.study.settings import put_all
from tests.workflow.study_run import tiny_settings

WORLD = "rlgen.data.miniature:judge"
OWN = "tests.studies.verifiers:judge"


def settings_of(study: Study) -> dict[str, str]:
    """The settings of every stage that may call a verifier, as reruns are decided by them."""
    found: dict[str, StageSettings] = {
        "problems": ProblemsSettings.of(study),
        "rl": GrpoSettings.of(study, "rl"),
        "evaluate": EvaluateSettings.of(study),
        "ablate": InterveneSettings.of(study, "ablate"),
        "compare": CompareSettings.of_main(study),
        **{task: TaskSettings.of(study, task) for task in study.task_names},
    }
    return {name: settings.canonical() for name, settings in found.items()}


@pytest.mark.parametrize(
    ("change", "reads"),
    [
        ({"verifier": OWN}, {"problems", "rl", "evaluate", "ablate", "compare", "mod", "max", "par", "min"}),
        ({"verifier": OWN, "problems.verifier": WORLD}, {"evaluate", "ablate", "compare", "mod", "max", "par", "min"}),
        ({"problems.verifier": OWN}, {"problems", "rl"}),
        ({"tasks.unseen.0.verifier": OWN}, {"evaluate", "ablate", "compare", "min"}),
        ({"problems.verifier": WORLD, "tasks.unseen.0.verifier": WORLD}, set()),
    ],
)
def test_just_the_stages_that_judge_read_the_verifier(change: dict[str, Any], reads: set[str]) -> None:
    settings = tiny_settings()
    before = settings_of(parse_study(settings))
    put_all(change)(settings)
    after = settings_of(parse_study(settings))
    assert {name for name in before if before[name] != after[name]} == reads


def test_a_study_that_names_no_verifier_leaves_math_out_of_what_reruns() -> None:
    settings = tiny_settings()
    del settings["verifier"]
    assert not any("verifier" in text for text in settings_of(parse_study(settings)).values())
    named = settings_of(parse_study({**settings, "verifier": "math"}))
    assert named == settings_of(parse_study(settings))


def test_rewards_of_the_user_s_own_do_not_read_the_verifier() -> None:
    settings = tiny_settings()
    settings["arms"][1]["reward"] = "tests.studies.rewards:contains_asked_word"
    assert "verifier" not in GrpoSettings.of(parse_study(settings), "rl").canonical()


def test_multiple_choice_reads_no_verifier(tmp_path: Path) -> None:
    settings = tiny_settings()
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "?", "choices": ["a", "b"], "answer": 0}))
    task = {"source": "jsonl", "path": str(tmp_path / "rows.jsonl"), "format": "multiple_choice"}
    settings["tasks"]["unseen"] = [{"name": "pick", **task}, {"name": "piqa", "source": "benchmark"}]
    assert set(EvaluateSettings.of(parse_study(settings)).verifiers) == {"mod", "max", "par"}


def test_a_user_s_own_verifier_is_an_input_of_what_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text("def judge(response, gold):\n    return response == gold\n")
    settings = tiny_settings()
    study = parse_study({**settings, "verifier": "own:judge"})
    for found in (ProblemsSettings.of(study), GrpoSettings.of(study, "rl"), EvaluateSettings.of(study)):
        assert found.verifier_files == ["own.py"]
    assert InterveneSettings.of(study, "ablate").verifier_files == ["own.py"]
    assert ProblemsSettings.of(parse_study(settings)).verifier_files == []


@pytest.mark.parametrize("name", ["maths", "own", "own:", ":judge", "own.judge", "a b:c"])
def test_a_name_that_can_be_no_verifier_is_refused(name: str) -> None:
    with pytest.raises(StudyError, match="verifier"):
        parse_study({**tiny_settings(), "verifier": name})
