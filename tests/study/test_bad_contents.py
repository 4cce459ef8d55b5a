"""What a study names on this machine is looked at before anything runs: rows of data, models, prompts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlgen.study import load_study, parse_study
from rlgen.study.checks import looked_at
from tests.study.settings import GOOD, ROOT, Change, assert_refused, put, put_all, refusal

ROW = {"problem": "1+1", "answer": "2", "solution": "1+1=2", "level": "Level 1", "text": "a b c", "question": "1+1?"}
ROW |= {"choices": ["1", "2"]}


def written(file: Path, *rows: Any) -> str:
    """Write rows as JSON lines; return the file's path."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def without(field: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != field} | more


def problems(path: str, **settings: Any) -> Change:
    return put("problems.sources", [{"source": "jsonl", "path": path, "items": 640, **settings}])


def corpus(path: str, **settings: Any) -> Change:
    return put("corpus.sources", [{"source": "jsonl", "path": path, **settings}])


def task(path: str, **settings: Any) -> Change:
    own = {"name": "arc", "source": "jsonl", "path": path, "format": "generate", **settings}
    return put("tasks.unseen.0", own)


@pytest.mark.parametrize(
    ("change", "row", "key", "said"),
    [
        (problems, without("answer", answr="2"), "problems.sources[0].answer", "did you mean `answr`"),
        (problems, without("problem"), "problems.sources[0].problem", "no field `problem`"),
        (problems, without("solution"), "problems.sources[0].solution", "line 1"),
        (problems, ROW | {"answer": None}, "problems.sources[0].answer", "is null"),
        (corpus, without("text", txt="a"), "corpus.sources[0].field", "did you mean `txt`"),
        (task, without("answer"), "tasks.unseen[0].path", "no field `answer`"),
        (task, without("question"), "tasks.unseen[0].prompt", "no field `question`"),
    ],
)
def test_fields_that_rows_do_not_have_are_refused(tmp_path: Path, change: Any, row: Any, key: str, said: str) -> None:
    file = tmp_path / "rows.jsonl"
    found = refusal(change(written(file, row, ROW)))
    assert f"  {key}: " in found
    assert said in found
    assert f"{file}, line 1" in found
    found = refusal(change(written(file, ROW, ROW, row)))
    assert f"  {key}: " in found
    assert "line 3" in found


def test_other_names_of_fields_are_looked_for(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", ROW)
    levels = {"level": "difficulty", "levels": [1, 2]}
    assert_refused(problems(file, **levels), "problems.sources[0].level", "it has answer")
    assert_refused(problems(file, answer="gold"), "problems.sources[0].answer", "it has answer")
    assert_refused(corpus(file, field="Text"), "corpus.sources[0].field", "did you mean `text`")
    assert_refused(task(file, prompt="{questoin}"), "tasks.unseen[0].prompt", "did you mean `question`")
    choice = {"format": "multiple_choice"}
    choices = written(tmp_path / "choices.jsonl", without("choices"))
    assert_refused(task(choices, **choice), "tasks.unseen[0].path", "it has answer")
    bench = {"name": "sciq", "source": "benchmark", "path": written(tmp_path / "b.jsonl", without("answer"))}
    assert_refused(put("tasks.unseen.0", bench), "tasks.unseen[0].path", "it has choices")


def test_rows_that_have_all_fields_are_taken(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", ROW, ROW)
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())
    before = looked_at(parse_study(settings))
    for change in (problems(file, level="level", levels=[1, 2]), corpus(file), task(file)):
        change(settings)
    assert looked_at(parse_study(settings)) == before + 3
    one = written(tmp_path / "one.jsonl", ROW, {"other": 1})
    task(one, items=1)(settings)
    parse_study(settings)


def test_rows_of_a_local_folder_need_a_field_only_once(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "deep"
    folder.mkdir(parents=True)
    source = {"source": "hub", "path": str(tmp_path / "data")}
    written(folder / "train.jsonl", {"txt": "a"}, {"txt": "b"})
    assert_refused(put("corpus.sources.0", source), "corpus.sources[0].field", "did you mean `txt`")
    written(folder / "train.jsonl", {"text": None}, {"text": "b"})
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())
    put("corpus.sources.0", source)(settings)
    parse_study(settings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"[1, 2]\n", "line 1: is not a JSON object"),
        (b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        ('{"text": "é"}'.encode("latin1"), "line 1: byte 11 is not UTF-8"),
        ('{"text": "a"}'.encode("utf-16"), "line 1: byte 1 is not UTF-8"),
        (b'{"text": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"text": ' + b"[" * 100_000, "line 1"),
        (b"\x1f\x8b\x08\x00", "line 1: byte 2 is not UTF-8"),
    ],
)
def test_files_without_rows_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    found = refusal(corpus(str(file)))
    assert f"  corpus.sources[0].path: {file}: " in found
    assert said in found
    assert len(found) < 1000


def test_a_line_longer_than_what_is_read_is_left_to_the_stage(tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "config.yaml").read_text())
    corpus(written(tmp_path / "rows.jsonl", {"text": "a" * 2_000_000}))(settings)
    parse_study(settings)


def test_files_that_cannot_be_reached_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert_refused(corpus(str(tmp_path / "loop")), "corpus.sources[0].path", "correct the path")
    assert_refused(corpus(str(tmp_path)), "corpus.sources[0].path", "give a JSONL file")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("{problem}\nPut the final answer in \\boxed{answer}.", 'uses the answer field "answer"'),
        ("{question} {Solution}", 'uses the answer field "Solution"'),
        ("Think.", "no field"),
        ("{question", "braces"),
        ("{}", "not the plain name"),
        ("{0}", "not the plain name"),
        ("{question.__class__}", "not the plain name"),
        ("{question[0]}", "not the plain name"),
        ("{question!r}", "not the plain name"),
        ("{question:>999999999}", "not the plain name"),
    ],
)
def test_prompts_that_leak_or_are_no_templates_are_refused(tmp_path: Path, prompt: str, said: str) -> None:
    change = task(written(tmp_path / "rows.jsonl", ROW), prompt=prompt)
    assert said in refusal(change)
    assert_refused(change, "tasks.unseen[0].prompt", "")
    shorter = prompt.replace("question", "problem")
    for key in ("problems.prompt", "teacher.prompt"):
        changes = put_all({"teacher": {"path": "owner/model"}, key: shorter})
        assert_refused(changes, key, "write {problem} where the problem goes")


def model(folder: Path, **files: Any) -> str:
    """Write a folder of JSON files and of others; return its path."""
    folder.mkdir()
    for name, content in files.items():
        name = name.replace("__", ".")
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(folder)


INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config__json": b"{"}, "config.json: cannot be read"),
        ({"config__json": b""}, "config.json: cannot be read"),
        ({"config__json": b"\xff\xfe{}"}, "config.json: cannot be read"),
        ({"config__json": b"[" * 100_000}, "config.json: cannot be read"),
        ({"config__json": [1]}, "is no JSON object"),
        ({"config__json": {}}, "no weights in"),
        ({"config__json": {}, "model__safetensors": b""}, "model.safetensors is empty"),
        ({"config__json": {}, "pytorch_model__bin": b"x"}, "allow_pickle: true"),
        ({"config__json": {}, "model-1__safetensors": b"x", "model__safetensors__index__json": INDEX}, "model-2"),
        ({"config__json": {}, "model__safetensors": b"x", "model__safetensors__index__json": b"{"}, "no index"),
    ],
)
def test_folders_that_hold_no_whole_model_are_refused(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    path = model(tmp_path / "model", **files)
    arm = {"name": "theirs", "method": "existing", "path": path}
    found = refusal(lambda settings: settings["arms"].append(arm))
    assert "  arms[2].path: " in found
    assert said in found
    checkpoint = {**arm, "path": "owner/model", "checkpoints": [path]}
    assert "  arms[2].checkpoints[0]: " in refusal(lambda settings: settings["arms"].append(checkpoint))
    assert "  teacher.path: " in refusal(put("teacher", {"path": path}))


def test_whole_models_are_taken(tmp_path: Path) -> None:
    whole = model(tmp_path / "whole", config__json={}, model__safetensors=b"x")
    pickled = model(tmp_path / "pickled", config__json={}, pytorch_model__bin=b"x")
    arms = [{"name": "a", "method": "existing", "path": whole}]
    arms += [{"name": "b", "method": "existing", "path": pickled, "allow_pickle": True}]
    parse_study({**GOOD, "arms": [*GOOD["arms"], *arms]})


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_study_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("study: x")
    file.chmod(0)
    with pytest.raises(Exception, match="cannot be read"):
        load_study(file)
