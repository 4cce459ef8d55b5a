"""Adopting existing models."""

import json
import os
import shutil
import subprocess
import sys
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
        torch.nn.init.normal_(model.lm_head.weight)
    assert manifests[0]["digest"] != manifests[1]["digest"]
    assert manifests[0]["inputs"] != manifests[1]["inputs"]


def test_a_path_may_start_at_home(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.parent))
    arm = ExistingArm(name="dpo", method="existing", path=f"~/{tiny.name}", checkpoints=[f"~/{tiny.name}"])
    assert arm.folders == [str(tiny), str(tiny)]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model = ExistingBase(method="existing", path=str(tmp_path / "empty"))
    with pytest.raises(StudyError, match=r"empty: config.json is missing"):
        adopt(AdoptSettings(model=model), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pickled_weights_are_refused_unless_allowed(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_model(tiny).state_dict(), folder / "pytorch_model.bin")
    model = ExistingBase(method="existing", path=str(folder))
    with pytest.raises(StudyError, match=r"pickled: no weights in safetensors there.*`allow_pickle: true`"):
        adopt(AdoptSettings(model=model), out=tmp_path / "refused")
    with pytest.raises(StudyError, match=r"pickled: no weights in safetensors there.*`--allow-pickle`"):
        load_model(folder)
    adopt(AdoptSettings(model=model.model_copy(update={"allow_pickle": True})), out=tmp_path / "allowed")
    assert torch.equal(load_model(tmp_path / "allowed").lm_head.weight, load_model(tiny).lm_head.weight)


def test_code_of_the_model_s_is_run_only_if_trusted(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(tiny, folder)
    (folder / "configuration_own.py").write_text(
        "from transformers import Qwen3Config\n"
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "class OwnConfig(Qwen3Config):\n    model_type = 'own'\n"
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "modeling_own.py").write_text(
        "from transformers import Qwen3ForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnForCausalLM(Qwen3ForCausalLM):\n    config_class = OwnConfig\n"
    )
    own = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    config |= {"model_type": "own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    model = ExistingBase(method="existing", path=str(folder))
    with pytest.raises(StudyError, match="trust_remote_code"):
        adopt(AdoptSettings(model=model), out=tmp_path / "refused")
    assert not (tmp_path / "ran").exists()
    adopt(AdoptSettings(model=model.model_copy(update={"trust_remote_code": True})), out=tmp_path / "trusted")
    assert (tmp_path / "ran").exists()


def test_a_model_on_the_hub_stays_the_commit_that_was_adopted(tiny: Path, tmp_path: Path) -> None:
    commits = ["a" * 40, "b" * 40]
    place = tmp_path / "hub" / "models--owner--tiny"
    for commit, branch in zip(commits, ("main", "step1"), strict=True):
        shutil.copytree(tiny, place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / branch).write_text(commit)
    arm = ExistingArm(name="dpo", method="existing", path="owner/tiny", checkpoints=["owner/tiny@step1"])
    rlgen = str(Path(sys.executable).with_name("rlgen"))
    words = [rlgen, "adopt", "--settings", AdoptSettings(model=arm).canonical()]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    words += ["--out", str(tmp_path / "dpo")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads((tmp_path / "dpo" / x / "reference.json").read_text()) for x in (".", "checkpoints/1")]
    assert [reference["path"] for reference in found] == ["owner/tiny"] * 2
    assert [reference["revision"] for reference in found] == commits


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "qwen2", "architecture qwen2 and qwen3"),
        ("hidden_size", 8, "width 8 and 32"),
        ("num_hidden_layers", 1, "number of blocks 1 and 2"),
    ],
)
def test_an_arm_of_another_shape_is_refused(key: str, value: object, message: str, tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "other")
    config = json.loads((tiny / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {key: value, "layer_types": None}))
    for path, checkpoints in ((tmp_path / "other", []), (tiny, [str(tmp_path / "other")])):
        arm = ExistingArm(name="dpo", method="existing", path=str(path), checkpoints=checkpoints)
        with pytest.raises(
            StudyError, match=rf"other and the base, .*{tiny.name}, do not match: {message}; an arm must"
        ):
            adopt(AdoptSettings(model=arm), out=tmp_path / "dpo", base=tiny)


def test_an_arm_with_another_tokenizer_is_refused(tiny: Path, real_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "other")
    load_tokenizer(real_model).save_pretrained(tmp_path / "other")
    arm = ExistingArm(name="dpo", method="existing", path=str(tmp_path / "other"))
    with pytest.raises(StudyError, match=r"other and the base, .*: .* is id \d+ in the base and .* in the arm"):
        adopt(AdoptSettings(model=arm), out=tmp_path / "dpo", base=tiny)
    adopt(AdoptSettings(model=arm.model_copy(update={"path": str(tiny)})), out=tmp_path / "dpo", base=tiny)


def test_a_real_model(real_model: Path, tmp_path: Path) -> None:
    adopt(AdoptSettings(model=ExistingBase(method="existing", path=str(real_model))), out=tmp_path / "base")
    tokenizer = load_tokenizer(tmp_path / "base")
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    with torch.no_grad():
        next_token = load_model(tmp_path / "base")(ids).logits[0, -1].argmax()
    assert tokenizer.decode(next_token) == ","
