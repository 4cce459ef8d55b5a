"""A DAG of more than 2,000 jobs: it is built, and one setting in it reruns what hangs on it and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.study.test_bad_settings import put
from tests.workflow.made_up import make_up
from tests.workflow.study_run import ROOT, jobs

pytestmark = pytest.mark.slow

LARGE = ROOT / "tests/studies/large.yaml"
END = {"summary": 1, "report": 1}


@pytest.fixture(scope="module")
def finished_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of a made-up finished run of the large study."""
    work = tmp_path_factory.mktemp("large")
    assert len(make_up(work, LARGE)) > 2000
    return work


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("study", "large", {}),
        ("crosscoders.sft-rl.k", 4, {"fit": 1, "diagnose": 1, "attribute": 1, **END}),
        # An entry's own k, with three sizes and four seeds, and what is tracked of it. The fits with other k stay.
        ("crosscoders.base-sft.k", 4, {"fit": 12, "diagnose": 12, "attribute": 12, "track": 1, **END}),
    ],
)
def test_one_crosscoder_s_k_reruns_that_crosscoder_and_what_hangs_on_it(
    finished_large: Path, tmp_path: Path, key: str, value: Any, expected: dict[str, int]
) -> None:
    settings = yaml.safe_load(LARGE.read_text())
    put(key, value)(settings)
    study = tmp_path / "changed.yaml"
    study.write_text(yaml.safe_dump(settings))
    assert jobs(finished_large, study) == expected
