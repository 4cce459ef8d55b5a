"""What follows from a good study."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import yaml

from rlgen.paths import Paths
from rlgen.study import load_study, parse_study
from rlgen.study.stages import FitSettings, SftSettings, parse_settings, schema

ROOT = Path(__file__).parents[2]
GOOD = yaml.safe_load((ROOT / "config.yaml").read_text())


def test_default_study_is_right() -> None:
    study = load_study(ROOT / "config.yaml")
    assert study.models == ["base", "sft", "rl"]
    assert study.earlier_checkpoints("rl") == ["rl@1", "rl@2", "rl@3", "rl@4"]


def test_default_study_documents_every_section() -> None:
    assert set(GOOD) == set(schema()["properties"])


def test_every_key_is_described_in_the_schema() -> None:
    definitions = schema()["$defs"]
    for name, section in definitions.items():
        for key, value in section.get("properties", {}).items():
            assert "description" in value or key in ("method", "source"), f"{name}.{key}"


def test_order_of_keys_and_given_defaults_do_not_change_what_is_compared() -> None:
    reordered = copy.deepcopy(GOOD)
    arm = reordered["arms"][0]
    reordered["arms"][0] = dict(reversed(arm.items())) | {"epochs": 1.0, "schedule": "cosine"}
    first, second = parse_study(GOOD), parse_study(reordered)
    assert SftSettings.of(first, "sft").canonical() == SftSettings.of(second, "sft").canonical()


def test_stage_settings_survive_the_command_line() -> None:
    study = parse_study(GOOD)
    settings = FitSettings.of(study, "base-sft-rl")
    assert parse_settings(FitSettings, settings.canonical()) == settings


def test_checkpoints_lie_in_their_arm() -> None:
    paths = Paths(parse_study(GOOD))
    assert paths.model("rl@2") == paths.model("rl") / "checkpoints" / "2"


def test_reading_a_study_and_the_command_line_import_no_torch() -> None:
    code = (
        "import sys, rlgen.cli, rlgen.study, rlgen.study.stages, rlgen.paths, rlgen.study.rules;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pandas', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_schema_is_printed_as_json() -> None:
    command = [sys.executable, "-m", "rlgen", "config", "schema"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["title"] == "Study"
