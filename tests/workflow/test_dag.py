"""The DAG as Snakemake builds it; nothing is run."""

from pathlib import Path

import yaml

from tests.workflow.study_run import ROOT, jobs, snakemake, tiny_settings


def test_braces_in_settings_are_no_wildcards(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"id": "1", "problem": "1 + 1?", "solution": "2", "answer": "2"}\n')
    settings = tiny_settings()
    source = {"source": "jsonl", "path": str(problems)}
    settings["problems"] = {"sources": [source], "prompt": "{problem} Think."}
    settings["report"] = {"title": "What {problem} does"}
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(settings))
    assert {"problems", "report"} <= jobs(tmp_path, study).keys()


def test_what_a_teacher_solves_is_what_arms_and_corpus_read(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "1", "problem": "1 + 1?", "answer": "2"}\n')
    settings = tiny_settings()
    settings["problems"] = {
        "sources": [{"source": "jsonl", "path": str(rows), "solution": None}],
        "max_solution_tokens": 30,
    }
    settings["teacher"] = {"path": "owner/model", "temperature": 0.7}
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(settings))
    said = snakemake(tmp_path, study, "--dry-run", "--printshellcmds")
    commands = {line.split()[3]: line for line in said.splitlines() if line.startswith("Shell command: rlgen ")}
    for stage in ("sft", "grpo", "corpus"):
        assert "--problems results/tiny/data/solutions " in commands[stage]
    assert "--model results/tiny/models/teacher --problems results/tiny/data/problems" in commands["teacher"]
    assert "--base results/tiny/models/base" in commands["teacher"]
    assert "--base" not in commands["problems"], "solutions are counted where they are written"
    assert "temperature" not in commands["adopt"]
    assert "--base" not in commands["adopt"], "a teacher may be of another shape"


def test_single_values_change_the_default_study(tmp_path: Path) -> None:
    """README: `--config seed=1 study=mini-1` is the miniature with another seed, in a folder of its own."""
    printed = snakemake(ROOT, None, "--dry-run", "--config", f"results={tmp_path}", "seed=1", "study=mini-1")
    assert f"{tmp_path}/mini-1/report" in printed
    assert f"{tmp_path}/mini/" not in printed


def test_another_study_is_not_merged_with_the_default(tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    settings = tiny_settings()
    del settings["nulls"]
    study.write_text(yaml.safe_dump(settings))
    assert "perturb" not in jobs(tmp_path, study)


def test_a_model_must_keep_documents_apart_if_the_corpus_does(tmp_path: Path) -> None:
    """A teacher reads no corpus."""
    settings = tiny_settings()
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "1", "problem": "1 + 1?", "answer": "2"}\n')
    settings["problems"] = {"sources": [{"source": "jsonl", "path": str(rows), "solution": None}]}
    settings["teacher"] = {"path": "owner/model"}
    settings["arms"].append({"name": "dpo", "method": "existing", "path": "owner/dpo"})
    study = tmp_path / "study.yaml"
    for apart in (True, False):
        settings["corpus"] = settings["corpus"] | {"separate_documents": apart}
        study.write_text(yaml.safe_dump(settings))
        said = snakemake(tmp_path, study, "--dry-run", "--printshellcmds")
        adopted = {
            line.split()[-4]: line for line in said.splitlines() if line.startswith("Shell command: rlgen adopt")
        }
        found = {path.rsplit("/", 1)[1]: "--separate-documents" in line for path, line in adopted.items()}
        assert found == {"dpo": apart, "teacher": False}
