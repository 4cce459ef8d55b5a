"""The DAG as Snakemake builds it; nothing is run."""

from pathlib import Path

import yaml

from tests.workflow.study_run import jobs, tiny_settings


def test_braces_in_settings_are_no_wildcards(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"id": "1", "problem": "1 + 1?", "solution": "2", "answer": "2"}\n')
    settings = tiny_settings()
    settings["problems"] = {"source": "jsonl", "path": str(problems), "prompt": "{problem} Think."}
    settings["report"] = {"title": "What {problem} does"}
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(settings))
    assert {"problems", "report"} <= jobs(tmp_path, study).keys()
