"""Folders of adapters in a study: what is wrong with them is told without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from rlgen.errors import StudyError
from rlgen.study import parse_study

ROOT = Path(__file__).parents[2]
REFUSED = "only arms may be adapters"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder that looks like an adapter's."""
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1}))
    save_file(
        {"base_model.model.q_proj.lora_A.weight": np.zeros((1, 2), np.float32)}, folder / "adapter_model.safetensors"
    )
    return folder


def with_arm(**arm: Any) -> dict[str, Any]:
    """The miniature study with one more arm."""
    settings: dict[str, Any] = yaml.safe_load((ROOT / "config.yaml").read_text())
    settings["arms"].append({"name": "theirs", "method": "existing", **arm})
    return settings


def test_an_adapter_may_be_an_arm_and_a_checkpoint(adapter: Path) -> None:
    study = parse_study(with_arm(path=str(adapter), checkpoints=[str(adapter)]))
    found = study.existing("theirs")
    assert found is not None
    assert found.adapters == [str(adapter)] * 2


@pytest.mark.parametrize("key", ["path", "checkpoints"])
def test_what_is_wrong_with_an_adapter_is_told_with_its_key(key: str, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    arm = {"path": str(adapter)} if key == "path" else {"path": "owner/model", "checkpoints": [str(adapter)]}
    where = r"arms\[2\]\.path" if key == "path" else r"arms\[2\]\.checkpoints\[0\]"
    with pytest.raises(StudyError, match=rf"{where}: .*weights are not\n    remedy: add adapter_model.safetensors"):
        parse_study(with_arm(**arm))


def test_a_folder_with_neither_configuration_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path / "runs" / "empty"), "runs/empty"):  # the other looks like a hub id, but is there
        with pytest.raises(StudyError, match=r"no model there: .*runs/empty\n.*config.json, or adapter_config.json"):
            parse_study(with_arm(path=path))


def test_a_base_or_teacher_is_no_adapter(adapter: Path) -> None:
    settings = with_arm(path=str(adapter))
    with pytest.raises(StudyError, match=rf"base\.path: .*{REFUSED}"):
        parse_study(settings | {"base": {"method": "existing", "path": str(adapter)}})
    with pytest.raises(StudyError, match=rf"teacher\.path: .*{REFUSED}"):
        parse_study(settings | {"teacher": {"path": str(adapter)}})


def test_no_torch_is_imported(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(with_arm(path=str(adapter))))
    code = (
        "import sys; from pathlib import Path; from rlgen.study import load_study;"
        f"load_study(Path({str(tmp_path / 'study.yaml')!r}));"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
