"""The conda file and the Apptainer definition install what the lock file says; neither tool is needed to see it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEFINITION = (ROOT / "envs/rlgen.def").read_text()
KNOWN = {"files", "post", "environment", "test", "help"}


def sections() -> dict[str, list[str]]:
    """The definition's sections, line by line."""
    _, *parts = re.split(r"^%(\w+)\n", DEFINITION, flags=re.MULTILINE)
    lines = [[line.strip() for line in text.splitlines() if line.strip()] for text in parts[1::2]]
    return dict(zip(parts[::2], lines, strict=True))


def test_the_conda_file_names_files_that_are_there() -> None:
    found = yaml.safe_load((ROOT / "envs/rlgen.yaml").read_text())
    (pip,) = [entry["pip"] for entry in found["dependencies"] if isinstance(entry, dict)]
    lock, package = (ROOT / "envs" / line.split()[1] for line in pip)
    assert lock.resolve() == ROOT / "envs/requirements.lock"
    assert (package / "pyproject.toml").is_file()
    assert "pip" in found["dependencies"], "without it, conda warns and takes its own"


def test_both_have_a_python_that_the_package_takes() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    conda = re.search(r"python=([\d.]+)", (ROOT / "envs/rlgen.yaml").read_text())
    image = re.search(r"^From: python:([\d.]+)-", DEFINITION, flags=re.MULTILINE)
    assert conda is not None
    assert image is not None
    assert conda.group(1) == image.group(1) == wanted.removeprefix(">=")


def test_the_definition_s_sections_are_apptainer_s() -> None:
    header = DEFINITION.partition("%")[0]
    keys = [line.partition(":")[0] for line in header.splitlines() if line and not line.startswith("#")]
    assert keys == ["Bootstrap", "From"]
    assert sections().keys() == KNOWN


def test_the_files_that_it_copies_are_there_and_enough_to_install(tmp_path: Path) -> None:
    pairs = dict(line.split() for line in sections()["files"])
    assert all((ROOT / source).exists() and target == f"/opt/rlgen/{source}" for source, target in pairs.items())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"], "pyproject.toml", "rlgen"} <= pairs.keys()


@pytest.mark.parametrize("section", ["post", "test", "environment"])
def test_its_scripts_are_right_shell(section: str) -> None:
    subprocess.run(["sh", "-n", "-c", "\n".join(sections()[section])], check=True, timeout=10)


def test_it_installs_as_make_does() -> None:
    make = (ROOT / "Makefile").read_text()
    post = "\n".join(sections()["post"])
    for step in ("grep '^torch==' envs/requirements.lock)", "-r envs/requirements.lock"):
        assert step in make.replace("$$", "$")
        assert step in post


def test_every_package_that_rlgen_needs_is_locked() -> None:
    def name(line: str) -> str:
        return re.split(r"[<>=;\[ ]", line)[0].lower().replace("_", "-")

    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    lock = (ROOT / "envs/requirements.lock").read_text().splitlines()
    locked = {name(line) for line in lock if line and not line.startswith("#")}
    assert {name(line) for line in needs} <= locked
    assert all("==" in line for line in lock if line and not line.startswith("#"))
