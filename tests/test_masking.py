"""No secret of the environment is in a log, a manifest or anything else that a stage writes."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlgen.masking import Masking, masked
from rlgen.study.sections import Evaluation, ExistingBase, MiniatureProblems, MiniatureTask, Problems, Teacher
from rlgen.study.stages import AdoptSettings, ProblemsSettings, TaskSettings, TeacherSettings
from tests.evaluation.tiny import make_tiny

SECRETS = {
    "HF_TOKEN": "hf_AbCdEfGhIjKlMnOp",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "SOME_SERVICE_PASSWORD": "correct horse battery",
    "aws_secret": "wJalrXUtnFEMI",
}


def run(*words: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "rlgen", *map(str, words)],
        env=os.environ | SECRETS,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_nothing_that_stages_write_holds_a_secret(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "tiny")
    source = MiniatureProblems(source="miniature", items=4)
    task = MiniatureTask(name="max", source="miniature", items=4)
    teacher = Teacher(path=str(base), chat=False, tries=1, max_new_tokens=2)
    said = [
        run(
            "problems",
            "--settings",
            ProblemsSettings(problems=Problems(sources=[source])).canonical(),
            "--out",
            tmp_path / "p",
        ),
        run(
            "task", "--settings", TaskSettings(task=task, evaluation=Evaluation()).canonical(), "--out", tmp_path / "t"
        ),
        run(
            "adopt",
            "--settings",
            AdoptSettings(model=ExistingBase(method="existing", path=str(base))).canonical(),
            "--out",
            tmp_path / "m",
        ),
    ]
    assert [code for code, _ in said] == [0, 0, 0], said
    words = ["teacher", "--settings", TeacherSettings(teacher=teacher).canonical(), "--model", tmp_path / "m"]
    said.append(run(*words, "--problems", tmp_path / "p", "--out", tmp_path / "s"))
    assert "error: " in said[-1][1]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    for value in SECRETS.values():
        assert not any(value in text for _, text in said)
        assert not any(value.encode() in content for content in written)


def test_what_would_be_printed_is_masked(tmp_path: Path) -> None:
    token = SECRETS["HF_TOKEN"]
    settings = ProblemsSettings(problems=Problems(sources=[MiniatureProblems(source="miniature", items=4)]))
    code, logged = run("problems", "--settings", settings.canonical(), "--out", tmp_path / token)
    assert (code, token in logged, "<HF_TOKEN>" in logged) == (0, False, True)
    code, error = run("config", "check", tmp_path / f"{token}.yaml")
    assert (code, token in error, "<HF_TOKEN>.yaml: no such file" in error) == (2, False, True)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "manifest.json").write_text(json.dumps(token))
    code, crash = run("store", "info", tmp_path / "bad" / token)
    assert (code != 0, token in crash) == (True, False)


def test_values_are_masked_longest_first_and_words_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "A_TOKEN": "12345678",
        "B_KEY": "12345678-9",
        "C_KEY": "short",
        "PLAIN": "nothing else",
    }.items():
        monkeypatch.setenv(name, value)
    assert masked("12345678-9, 12345678, short, nothing else") == "<B_KEY>, <A_TOKEN>, short, nothing else"
    try:
        raise ValueError("12345678")
    except ValueError:
        record = logging.LogRecord("rlgen", logging.INFO, "", 0, "got %s", ("12345678",), sys.exc_info())
    text = Masking("%(message)s").format(record)
    assert text.startswith("got <A_TOKEN>\nTraceback")
    assert "12345678" not in text
