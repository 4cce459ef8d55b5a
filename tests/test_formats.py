"""Artifacts of formats that are not known, or of library versions that must not be mixed, are refused with a remedy."""

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from rlgen.errors import StudyError
from rlgen.formats import FORMATS, check_mixture, release
from rlgen.stage import read_manifest, stage
from rlgen.study.checks.running import RULES
from rlgen.study.stages import PerturbSettings

SETTINGS = PerturbSettings()
TRANSFORMERS = metadata.version("transformers")


def made(out: Path, rule: str, **changes: Any) -> Path:
    """An artifact that a stage made, its manifest then changed."""
    with stage(rule, SETTINGS, {}, out) as work:
        (work.folder / "content").write_text(out.name)
    manifest = {**read_manifest(out), **changes}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def of_version(version: str) -> dict[str, Any]:
    return {"versions": {"rlgen": "0.1.0", "torch": "2.13.0+cpu", "transformers": version}}


def make(rule: str, out: Path, **inputs: Path) -> None:
    with stage(rule, SETTINGS, inputs, out) as work:
        (work.folder / "content").touch()


def test_every_stage_s_artifact_has_a_format(tmp_path: Path) -> None:
    assert FORMATS.keys() == set(RULES) - {"summary"}
    assert read_manifest(made(tmp_path / "fit", "fit"))["format"] == FORMATS["fit"]


def test_an_artifact_of_another_format_is_refused_with_its_remedy(tmp_path: Path) -> None:
    newer = made(tmp_path / "fit", "fit", format=FORMATS["fit"] + 1, versions={"rlgen": "9.1.0"})
    with pytest.raises(StudyError) as refused:
        make("diagnose", tmp_path / "out", crosscoder=newer)
    for told in (f"format {FORMATS['fit'] + 1}", "rlgen 9.1.0", f"snakemake --forcerun {newer}"):
        assert told in str(refused.value)
    assert not (tmp_path / "out.partial").exists()


def test_an_artifact_made_before_formats_were_counted_is_of_the_first(tmp_path: Path) -> None:
    old = made(tmp_path / "fit", "fit")
    manifest = read_manifest(old)
    del manifest["format"]
    (old / "manifest.json").write_text(json.dumps(manifest))
    make("diagnose", tmp_path / "out", crosscoder=old)


@pytest.mark.parametrize("rule", ["dump", "evaluate"])
def test_what_is_compared_must_be_of_one_major_version(tmp_path: Path, rule: str) -> None:
    before = made(tmp_path / "base", rule, **of_version("3.1.0"))
    here = made(tmp_path / "rl", rule, **of_version(TRANSFORMERS))
    with pytest.raises(StudyError) as refused:
        make("fit", tmp_path / "out", base=before, rl=here)
    message = str(refused.value)
    assert all(told in message for told in ("transformers 3.1.0", f"transformers {TRANSFORMERS}", str(before)))
    assert re.search(r"--forcerun (.*)$", message).group(1) == str(before), "that of the version here can stay"


def test_of_neither_version_here_both_are_to_be_made_again(tmp_path: Path) -> None:
    parts = [made(tmp_path / f"part-{v}", "dump", **of_version(f"{v}.0")) for v in (2, 3)]
    with pytest.raises(StudyError, match=f"--forcerun {parts[0]} {parts[1]}$"):
        check_mixture(parts)


def test_minor_versions_and_other_kinds_may_be_mixed(tmp_path: Path) -> None:
    first = made(tmp_path / "base", "dump", **of_version("5.17.0"))
    second = made(tmp_path / "rl", "dump", **of_version("5.23.1"))
    model = made(tmp_path / "model", "sft", **of_version("3.0"))
    make("fit", tmp_path / "out", base=first, rl=second, model=model)


def test_release_is_what_may_change_results() -> None:
    assert [release(v) for v in ("5.23.0", "2.13.0+cpu", "0.4.13", "0.8", "1")] == ["5", "2", "0.4", "0.8", "1"]
