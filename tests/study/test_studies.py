"""The studies that come with rlgen: right, planned without network, and with memory estimates that are true."""

from pathlib import Path

import pytest

from rlgen.posttrain.memory import memory_of
from rlgen.study import load_study
from tests.workflow.study_run import jobs

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "workflow/studies").glob("*.yaml"))
NAMES = [path.stem for path in STUDIES]
MINIATURE = sorted((ROOT / "workflow/studies/miniature").glob("*.yaml"))


def test_there_is_one_for_each_model_of_the_paper_and_one_for_one_card() -> None:
    assert NAMES == ["llama3.1-8b", "qwen2.5-7b", "qwen3-0.6b", "qwen3-4b"]


@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_is_named_after_its_file_and_right(path: Path) -> None:
    study = load_study(path)
    assert study.study == path.stem
    assert [arm.method for arm in study.arms] == ["sft", "grpo"]


@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_every_setting_of_the_arms_has_its_source(path: Path) -> None:
    lines = path.read_text().splitlines()
    arms = lines[lines.index("arms:") : next(i for i, line in enumerate(lines) if line.startswith("# Training takes"))]
    told = [line for line in arms if any(source in line for source in ("[paper]", "[Huan]", "[ours]"))]
    untold = {line.strip().partition(":")[0] for line in arms[1:] if line not in told and "#" not in line}
    assert untold <= {"- name", "method", "clip_high"}


@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_its_memory_estimates_are_those_of_the_command(path: Path) -> None:
    lines = path.read_text().splitlines()
    said = [line.removeprefix("#     ") for line in lines if line.startswith(("#     sft:", "#     rl:"))]
    assert said == memory_of(path)


@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_both_arms_fit_the_gpus_that_it_is_for(path: Path) -> None:
    wanted = "RTX 4090" if path.stem == "qwen3-0.6b" else "A100-80GB or H100"
    lines = [line for line in memory_of(path) if wanted in line]
    assert len(lines) == 2
    assert all("GB, fits" in line for line in lines)


@pytest.mark.parametrize("name", ["tiny", "stories260k"])
def test_those_of_the_tests_are_right_too(name: str, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "stories260k" and real_data != ROOT.parent / "shared" / "data":
        pytest.skip("its paths are those of real data beside the repository")
    monkeypatch.chdir(ROOT)
    load_study(ROOT / "tests/studies" / f"{name}.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_its_whole_dag_is_planned_without_network(path: Path, tmp_path: Path) -> None:
    found = jobs(tmp_path, path)
    study = load_study(path)
    checkpoints = [model for arm in study.arm_names for model in study.earlier_checkpoints(arm)]
    assert found["teacher"] == found["problems"] == found["corpus"] == found["sft"] == found["grpo"] == 1
    assert found["dump"] == study.activations.parts * (len(study.models) + 1) + len(checkpoints)
    assert found["fit"] == len(study.fits) == 2 + 2 * len(study.crosscoders) + 2 * 2


@pytest.mark.parametrize("path", MINIATURE, ids=lambda path: path.stem)
def test_the_miniatures_further_studies_are_the_miniature(path: Path) -> None:
    """All that they leave to be made before the crosscoders is the same as config.yaml's."""
    further, own = load_study(path), load_study(ROOT / "config.yaml")
    assert further.study == f"mini-{path.stem}"
    for part in ("base", "problems", "tasks", "evaluation", "corpus", "seed"):
        assert getattr(further, part) == getattr(own, part), part
    arms = {arm.name: arm.model_dump(exclude={"checkpoints", "kl_every"}) for arm in further.arms}
    assert arms == {
        arm.name: arm.model_dump(exclude={"checkpoints", "kl_every"}) for arm in own.arms if arm.name in arms
    }
