"""What follows from a good study."""

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlgen.paths import Paths
from rlgen.study import load_study, parse_study
from rlgen.study.checks import check
from rlgen.study.checks.data import POSITIONS
from rlgen.study.checks.running import RULES
from rlgen.study.sections import ExistingArm, GrpoArm, PretrainedBase, SftArm
from rlgen.study.stages import (
    DumpSettings,
    EvaluateSettings,
    FitSettings,
    InterveneSettings,
    LocaliseSettings,
    SftSettings,
    SummarySettings,
    TaskSettings,
    parse_settings,
    schema,
)
from rlgen.study.study import Study

ROOT = Path(__file__).parents[2]
GOOD = yaml.safe_load((ROOT / "config.yaml").read_text())


def test_default_study_is_right() -> None:
    study = load_study(ROOT / "config.yaml")
    assert study.models == ["base", "sft", "rl"]
    assert study.earlier_checkpoints("rl") == ["rl@1", "rl@2", "rl@3", "rl@4"]


def test_default_study_documents_every_section() -> None:
    assert set(GOOD) == set(schema()["properties"])


def test_default_study_names_every_key() -> None:
    sections = [schema(), *schema()["$defs"].values()]
    keys = {key for section in sections for key in section.get("properties", {})}
    text = (ROOT / "config.yaml").read_text()
    assert [key for key in sorted(keys) if not re.search(rf"\b{key}:", text)] == []


def test_the_keys_that_it_leaves_as_comments_are_right() -> None:
    """Uncommented, each is a setting that is accepted, or refused for a file that is not there."""
    lines = (ROOT / "config.yaml").read_text().splitlines()
    text = "\n".join(re.sub(r"^( *)# (?=( *- \{?)?\w+: )", r"\1", line) for line in lines)
    study = Study.model_validate(yaml.safe_load(text))
    assert {type(arm) for arm in study.arms} == {SftArm, GrpoArm, ExistingArm}
    assert {text.source for text in study.corpus.sources} == {"miniature", "problems", "jsonl", "hub"}
    assert {source.source for source in study.problems.sources} == {"miniature", "jsonl", "hub"}
    assert {finding.problem.partition(":")[0] for finding in check(study)} == {"no such file"}


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


def test_the_engine_reruns_evaluations_alone() -> None:
    """Tasks and interventions do not read it."""
    changed = copy.deepcopy(GOOD)
    changed["evaluation"]["engine"] = "vllm"
    first, second = parse_study(GOOD), parse_study(changed)
    assert TaskSettings.of(first, "max").canonical() == TaskSettings.of(second, "max").canonical()
    assert InterveneSettings.of(first, "ablate").canonical() == InterveneSettings.of(second, "ablate").canonical()
    assert EvaluateSettings.of(first).canonical() != EvaluateSettings.of(second).canonical()


def test_stage_settings_survive_the_command_line() -> None:
    study = parse_study(GOOD)
    settings = FitSettings.of(study, "base-sft-rl")
    assert parse_settings(FitSettings, settings.canonical()) == settings


@pytest.mark.parametrize("amplify", [{"norm": 0.7}, {"alpha": 2.0}, {"norm": None, "alpha": 2.0}, {}])
def test_a_strength_survives_the_command_line(amplify: dict[str, float]) -> None:
    settings = copy.deepcopy(GOOD)
    settings["interventions"]["amplify"] = amplify
    found = InterveneSettings.of(parse_study(settings), "amplify")
    assert parse_settings(InterveneSettings, found.canonical()) == found


def test_the_seeds_the_compared_and_the_null_are_localised_too() -> None:
    settings = copy.deepcopy(GOOD)
    settings["localisation"]["compare"] = ["base-sft-rl", "base-rl.seed=2"]
    study = parse_study(settings)
    own = ["base-rl", "base-rl.seed=1", "base-rl.seed=2", "base-sft-rl"]
    assert study.localised == {**dict.fromkeys(own, "rl"), "null-base-noise": "base+noise"}
    assert next(iter(study.localised)) == "base-rl"
    assert {"transplant", "amplify", "ablate"} <= set(study.edits_of("base-rl"))
    for other in own[1:]:
        assert study.edits_of(other) == ["transplant"]
    assert study.edits_of("null-base-noise") == ["transplant"]
    del settings["nulls"], settings["interventions"]["transplant"]
    without = parse_study(settings)
    assert list(without.localised) == own
    assert "transplant" not in without.edits
    del settings["localisation"]
    assert parse_study(settings).localised == {}


def test_without_transplants_the_null_is_amplified() -> None:
    settings = copy.deepcopy(GOOD)
    del settings["interventions"]["transplant"]
    assert parse_study(settings).edits_of("null-base-noise") == ["amplify"]


def test_the_studys_own_fit_alone_is_edited_with_other_layers() -> None:
    settings = copy.deepcopy(GOOD)
    settings["activations"]["layers"] = [3, 2]
    settings["crosscoders"]["base-rl"]["grid"] = {"layer": [2]}
    settings["localisation"]["compare"] = settings["interventions"]["with_layers"] = ["base-rl.layer=2"]
    study = parse_study(settings)
    assert study.edited_with("base-rl") == ["base-rl", "base-rl.layer=2"]
    for fit in ("base-rl.seed=1", "base-rl.layer=2", "null-base-noise"):
        assert study.edited_with(fit) == [fit]


def test_every_localised_fits_settings_survive_the_command_line() -> None:
    """Names of fits have `=` in them, and the null's arm `+`."""
    study = parse_study(GOOD)
    for fit, arm in study.localised.items():
        settings = LocaliseSettings.of(study, fit)
        assert (settings.localisation.crosscoder, settings.localisation.arm) == (fit, arm)
        assert parse_settings(LocaliseSettings, settings.canonical()) == settings


def test_a_forward_pass_takes_the_batch_unless_told_otherwise() -> None:
    arm = {"name": "sft", "method": "sft", "batch_size": 16}
    whole, parts = SftArm.model_validate(arm), SftArm.model_validate({**arm, "micro_batch_size": 4})
    assert [(whole.sequences_per_pass(n), whole.passes_per_step(n)) for n in (1, 2)] == [(16, 1), (8, 1)]
    assert [(parts.sequences_per_pass(n), parts.passes_per_step(n)) for n in (1, 2)] == [(4, 4), (4, 2)]


def test_known_rules_are_those_of_the_workflow() -> None:
    files = (ROOT / "workflow/rules").glob("*.smk")
    found = [name for file in files for name in re.findall(r"^ *rule (\w+):", file.read_text(), flags=re.M)]
    assert sorted(found) == sorted(RULES)


@pytest.mark.parametrize(
    ("items", "epochs", "batch", "generations"), [(640, 1, 128, 8), (100, 0.3, 24, 8), (5, 0.1, 8, 2)]
)
def test_as_many_checkpoints_as_steps_can_be_asked_for(items: int, epochs: float, batch: int, generations: int) -> None:
    settings = copy.deepcopy(GOOD)
    settings["problems"]["sources"][0]["items"] = items
    arm = {"epochs": epochs, "batch_size": batch}
    settings["arms"][0] |= {**arm, "micro_batch_size": batch}
    settings["arms"][1] |= {**arm, "generations": generations}
    most = [math.ceil(epochs * items / batch), math.ceil(epochs * items * generations / batch)]
    for index, steps in enumerate(most):
        settings["arms"][index]["checkpoints"] = steps
    assert not list(check(Study.model_validate(settings)))
    for index, steps in enumerate(most):
        settings["arms"][index]["checkpoints"] = steps + 1
    keys = [finding.key for finding in check(Study.model_validate(settings))]
    assert keys == ["arms[0].checkpoints", "arms[1].checkpoints"]


def test_the_miniature_bases_longest_sequence_is_known() -> None:
    from rlgen.data.miniature import build_tokenizer
    from rlgen.posttrain.pretrain import _config

    base = PretrainedBase(method="pretrain")
    assert _config(base, build_tokenizer()).max_position_embeddings == POSITIONS


def test_the_summary_counts_the_stores_that_the_rules_make() -> None:
    settings = copy.deepcopy(GOOD)
    settings["activations"]["parts"] = 2
    settings["tracking"]["crosscoders"] = ["base-sft"]
    del settings["crosscoders"]["base-sft-rl"], settings["nulls"]
    final, earlier = dict.fromkeys(["base", "rl", "sft"], 2), {f"sft@{index}": 1 for index in range(1, 5)}
    assert SummarySettings.of(parse_study(settings)).stores == final | earlier


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


def test_a_checkpoint_s_store_is_one_part_and_reads_no_setting_of_fitting() -> None:
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())
    settings["activations"] |= {"parts": 2, "outlier_norm": 20}
    study = parse_study(settings)
    final, checkpoint = (DumpSettings.of(study, model, 0).activations for model in ("rl", "rl@1"))
    assert (final.parts, checkpoint.parts) == (2, 1)
    assert "outlier_norm" not in DumpSettings.of(study, "rl", 0).canonical()
