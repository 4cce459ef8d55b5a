"""Adopting existing models."""

import json
import os
from pathlib import Path

import pytest
import torch

from rlgen.errors import StudyError
from rlgen.models import load_model, load_tokenizer
from rlgen.posttrain.adopt import adopt
from rlgen.stage import read_manifest
from rlgen.study.sections import ExistingArm, ExistingBase
from rlgen.study.stages import AdoptSettings
from tests.evaluation.tiny import make_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def test_a_folder_is_referred_to_and_loads(tiny: Path, tmp_path: Path) -> None:
    relative = os.path.relpath(tiny)
    arm = ExistingArm(name="dpo", method="existing", path=relative, checkpoints=[str(tiny), relative])
    adopt(AdoptSettings(model=arm), out=tmp_path / "dpo")
    reference = json.loads((tmp_path / "dpo" / "reference.json").read_text())
    assert (reference["path"], reference["revision"]) == (str(tiny.resolve()), None)
    for folder in (tmp_path / "dpo", tmp_path / "dpo" / "checkpoints" / "1", tmp_path / "dpo" / "checkpoints" / "2"):
        assert torch.equal(load_model(folder).lm_head.weight, load_model(tiny).lm_head.weight)
        assert load_tokenizer(folder).get_vocab() == load_tokenizer(tiny).get_vocab()
    assert not list((tmp_path / "dpo").rglob("*.safetensors")), "nothing is copied"


def test_other_weights_are_another_artifact(tiny: Path, tmp_path: Path) -> None:
    model = load_model(tiny)
    load_tokenizer(tiny).save_pretrained(tmp_path / "m")
    manifests = []
    for name in ("a", "b"):
        model.save_pretrained(tmp_path / "m")
        adopt(AdoptSettings(model=ExistingBase(method="existing", path=str(tmp_path / "m"))), out=tmp_path / name)
        manifests.append(read_manifest(tmp_path / name))
        torch.nn.init.zeros_(model.lm_head.weight)
    assert manifests[0]["digest"] != manifests[1]["digest"]
    assert manifests[0]["inputs"] != manifests[1]["inputs"]


def test_a_path_may_start_at_home(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    arm = ExistingArm(name="dpo", method="existing", path=f"~/{tiny.name}", checkpoints=[f"~/{tiny.name}"])
    assert arm.folders == [str(tiny), str(tiny)]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model = ExistingBase(method="existing", path=str(tmp_path / "empty"))
    with pytest.raises(StudyError, match=r"empty: no model configuration can be loaded"):
        adopt(AdoptSettings(model=model), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_real_model(real_model: Path, tmp_path: Path) -> None:
    adopt(AdoptSettings(model=ExistingBase(method="existing", path=str(real_model))), out=tmp_path / "base")
    tokenizer = load_tokenizer(tmp_path / "base")
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    with torch.no_grad():
        next_token = load_model(tmp_path / "base")(ids).logits[0, -1].argmax()
    assert tokenizer.decode(next_token) == ","
