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


def test_the_conda_file_has_what_the_installer_needs() -> None:
    found = yaml.safe_load((ROOT / "envs/rlgen.yaml").read_text())
    assert {"git", "make", "pip"} <= set(found["dependencies"])
    assert "envs/install.sh" in (ROOT / "envs/rlgen.yaml").read_text()


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


def test_make_and_the_definition_install_by_the_same_script() -> None:
    assert "envs/install.sh $(BIN)/python" in (ROOT / "Makefile").read_text()
    assert any("envs/install.sh python" in line for line in sections()["post"])
    subprocess.run(["sh", "-n", ROOT / "envs/install.sh"], check=True, timeout=10)


def name(line: str) -> str:
    """A requirement's name, in the form that PyPI compares."""
    return re.split(r"[<>=;\[ ]", line)[0].lower().replace("_", "-")


def requirements(lock: Path) -> dict[str, list[str]]:
    """Hashes by requirement of a lock file."""
    text = re.sub(r"^#.*\n", "", lock.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return {words[0]: re.findall(r"--hash=sha256:([0-9a-f]{64})", " ".join(words)) for words in lines}


def test_every_package_that_rlgen_needs_is_locked() -> None:
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    locked = {name(line) for line in requirements(ROOT / "envs/requirements.lock")} | {"torch"}
    assert {name(line) for line in needs} <= locked


@pytest.mark.parametrize("lock", sorted(path.name for path in (ROOT / "envs").glob("*.lock")))
def test_every_locked_package_but_torch_has_one_version_and_hashes(lock: str) -> None:
    found = requirements(ROOT / "envs" / lock)
    assert found
    assert all("==" in line for line in found)
    without = [name(line) for line, hashes in found.items() if not hashes]
    assert without == (["torch"] if lock == "requirements-torch.lock" else [])


def test_lock_files_name_no_index() -> None:
    for path in (ROOT / "envs").glob("*.lock"):
        assert "://" not in path.read_text(), path.name
