"""Every key of the study can be asked for by its path."""

import pytest

from rlgen.errors import StudyError
from rlgen.study.explain import explain
from tests.study.settings import GOOD
from tests.study.test_any_settings import places

KEYS = sorted({".".join(str(step) for step in path if not isinstance(step, int)) for path in places(GOOD)})


@pytest.mark.parametrize("key", KEYS)
def test_every_key_of_the_default_study_is_explained(key: str) -> None:
    assert explain(key)


def test_a_key_is_told_with_type_default_and_meaning() -> None:
    found = explain("arms[1].lr")
    assert found[0] == "arms.lr: number, above 0, at most 1e+12, default 5e-05"
    assert found[1] == "  Peak learning rate. Paper: 5e-5."
    assert "arms.lr: number, above 0, at most 1e+12, default 1e-06" in found
    assert explain("crosscoders.base-rl.sparsity")[0].startswith("crosscoders.sparsity: `relu_l1` or `batch_topk`")
    assert "study has these keys:" in explain()


@pytest.mark.parametrize(("key", "said"), [("arms.lrr", "did you mean `lr`"), ("sed", "`seed`"), ("seed.x", "none")])
def test_a_key_that_is_not_there_is_refused(key: str, said: str) -> None:
    with pytest.raises(StudyError, match=said):
        explain(key)
