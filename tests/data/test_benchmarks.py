"""Benchmarks: their prompts, choices and targets are those of the harness's built-in tasks, for every real row."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import yaml
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from rlgen.data import tasks as tasks_module
from rlgen.data.benchmarks import Benchmark, load_benchmark, names
from rlgen.data.jsonl import Row
from rlgen.data.tasks import make_task, read_items
from rlgen.errors import StudyError
from rlgen.evaluation.scoring import process_results
from rlgen.study.sections import BenchmarkTask, Evaluation
from rlgen.study.stages import TaskSettings
from tests.data.test_problems import jsonl

Fields = dict[str, Any]


def lettered(row: Fields) -> Fields:
    return {"text": row["choices"], "label": list("ABCDE"[: len(row["choices"])])}


def arc(row: Fields) -> Fields:
    key = "ABCDE"[row["answer"]]
    return {"id": row["id"], "question": row["question"], "choices": lettered(row), "answerKey": key}


def openbookqa(row: Fields) -> Fields:
    found = arc(row)
    return {**found, "question_stem": found.pop("question"), "answerKey": f" {found['answerKey']}"}


def commonsenseqa(row: Fields) -> Fields:
    return {**arc(row), "question_concept": "x"}


def headqa(row: Fields) -> Fields:
    name, _, qid = row["id"].rpartition("-")
    answers = [{"aid": n, "atext": text} for n, text in enumerate(row["choices"], start=1)]
    asked = {"name": name, "year": "2016", "category": row["category"], "qid": int(qid), "qtext": row["question"]}
    return {**asked, "ra": row["answer"] + 1, "answers": answers}


def sciq(row: Fields) -> Fields:
    wrong = [choice for n, choice in enumerate(row["choices"]) if n != row["answer"]]
    fields = {f"distractor{n}": choice for n, choice in enumerate(wrong, start=1)}
    support = "" if row["id"].endswith("0") else f" About {row['question']}"  # the samples have none
    return {**fields, "question": row["question"], "support": support, "correct_answer": row["choices"][row["answer"]]}


def logiqa(row: Fields) -> Fields:
    asked = {"label": "abcd"[row["answer"]], "context": row["context"], "question": row["question"]}
    return {**asked, "options": row["choices"]}


def piqa(row: Fields) -> Fields:
    first, second = row["choices"]
    return {"goal": row["question"], "sol1": first, "sol2": second, "label": row["answer"]}


def math500(row: Fields) -> Fields:
    rest = {"subject": row["subject"], "level": row["level"], "unique_id": row["id"]}
    return {"problem": row["problem"], "solution": row["solution"], "answer": row["answer"], **rest}


def aime24(row: Fields) -> Fields:
    answer = int(row["answer"])
    return {"ID": row["id"], "Problem": row["problem"], "Solution": row["solution"], "Answer": answer}


def aime25(row: Fields) -> Fields:
    return {"problem": row["problem"], "answer": row["answer"], "id": row["id"]}


NATIVE: dict[str, tuple[str, Callable[[Fields], Fields]]] = {
    "arc_easy": ("arc_easy_test", arc),
    "arc_challenge": ("arc_challenge_test", arc),
    "openbookqa": ("openbookqa_test", openbookqa),
    "commonsenseqa": ("commonsenseqa_dev", commonsenseqa),
    "headqa": ("headqa_test", headqa),
    "sciq": ("sciq_test", sciq),
    "logiqa": ("logiqa_test", logiqa),
    "piqa": ("piqa_valid", piqa),
    "math500": ("math500_test", math500),
    "aime24": ("aime24_test", aime24),
    "aime25": ("aime25_test", aime25),
}
"""The file of real rows of each benchmark, and how a normalised row is on the hub."""
NO_ID = {"sciq", "logiqa", "piqa"}


def test_every_benchmark_is_compared() -> None:
    assert names() == sorted(NATIVE)


def built_in(benchmark: Benchmark, rows: list[Fields]) -> ConfigurableTask:
    """The harness's own task, from its own file and functions, over rows in memory."""
    root = Path(lm_eval.tasks.__file__).parent
    file = next(p for p in root.rglob("*.yaml") if f"\ntask: {benchmark.harness}\n" in f"\n{p.read_text()}")
    config = load_yaml(file, resolve_func=True)
    hub = benchmark.dataset
    assert (config["dataset_path"], config.get("dataset_name")) == (hub.path, hub.name)
    split = config.get("test_split") or config["validation_split"]
    assert split == hub.split
    splits = {
        config[key]: Dataset.from_list(rows)
        for key in ("training_split", "validation_split", "test_split", "fewshot_split")
        if config.get(key)
    }
    config |= {"custom_dataset": partial(dict, **splits), "metadata": None}
    config.pop("tag", None)
    return ConfigurableTask(config=config)


def ours(folder: Path) -> ConfigurableTask:
    """Our task file, as `lm_eval` would read it, over its rows in memory."""
    config = load_yaml(folder / "task.yaml", resolve_func=True)
    rows = partial(dict, test=Dataset.from_list(read_items(folder)))
    return ConfigurableTask(config={**config, "dataset_kwargs": None, "custom_dataset": rows, "metadata": None})


@pytest.fixture(params=sorted(NATIVE), scope="module")
def pair(
    request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[Fields], Path, ConfigurableTask]:
    """A benchmark over all real rows: its name, the rows as on the hub, our task's folder, the harness's task."""
    name = request.param
    file, native = NATIVE[name]
    rows = [native(json.loads(line)) for line in (real_data / f"{file}.jsonl").read_text().splitlines()]
    found: list[object] = []

    def hub(
        path: str, configuration: str | None, split: str, revision: str | None, key: str, files: str | None
    ) -> Iterator[Row]:
        found.extend((path, configuration, split, revision, key, files))
        return (Row(f"{path}, row {n}", n, row) for n, row in enumerate(rows, start=1))

    folder, task = tmp_path_factory.mktemp("tasks") / name, BenchmarkTask(name=name, source="benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks_module, "read_hub", hub)
        patch.setattr(tasks_module, "pin", lambda path, revision, key: f"commit of {revision}")
        make_task(TaskSettings(task=task, evaluation=Evaluation(temperature=0)), out=folder)
    split = load_benchmark(name).dataset
    commit = f"commit of {split.revision}"
    assert found == [split.path, split.name, split.split, commit, f"task `{name}`", split.files]
    about = json.loads((folder / "task.json").read_text())
    assert about["source"] == f"{split.path} ({split.name or 'default'}, {split.split})"
    assert (about["revision"], about["benchmark"], about["items"]) == (commit, name, len(rows))
    return name, rows, folder, built_in(load_benchmark(name), rows)


def test_prompts_choices_and_targets_are_the_harnesss_own(pair: tuple[str, Any, Path, ConfigurableTask]) -> None:
    name, rows, folder, theirs = pair
    mine = ours(folder)
    for key in ("output_type", "target_delimiter", "fewshot_delimiter", "num_fewshot", "description", "gen_prefix"):
        assert (mine.get_config(key) or None) == (theirs.get_config(key) or None), key
    items, docs = list(mine.test_docs()), list(theirs.eval_docs)
    if name == "math500":
        docs = list(theirs.config.process_docs(Dataset.from_list(rows)))
    assert len(items) == len(docs) == len(rows)
    for item, doc in zip(items, docs, strict=True):
        assert mine.doc_to_text(item) == str(theirs.doc_to_text(doc))
        request, wanted = (t.construct_requests(d, t.doc_to_text(d)) for t, d in ((mine, item), (theirs, doc)))
        if isinstance(wanted, list):
            assert [r.args for r in request] == [r.args for r in wanted]
            choices, gold = theirs.doc_to_choice(doc), theirs.doc_to_target(doc)
            assert mine.doc_to_choice(item) == choices
            assert mine.doc_to_target(item) == (choices.index(gold) if isinstance(gold, str) else gold)
        else:
            key = "Answer" if name == "aime24" else "answer"
            assert mine.doc_to_target(item) == str(doc[key])  # the template of math500 turns "[1, 2]" into a list
            for setting in ("until", "do_sample", "temperature"):
                assert request.args[1][setting] == wanted.args[1][setting]
            if "max_gen_toks" in wanted.args[1]:
                assert request.args[1]["max_gen_toks"] == wanted.args[1]["max_gen_toks"]


def test_metrics_are_the_harnesss_own(pair: tuple[str, Any, Path, ConfigurableTask]) -> None:
    name, _, folder, theirs = pair
    mine = ours(folder)
    reported = [metric["metric"] for metric in theirs.get_config("metric_list")]
    if mine.OUTPUT_TYPE == "generate_until":
        assert reported == ["exact_match"]  # by the harness's own comparison of texts; ours is math-verify's
        return
    assert [metric["metric"] for metric in mine.get_config("metric_list")] == reported
    for item, doc in list(zip(mine.test_docs(), theirs.eval_docs, strict=True))[:50]:
        for favoured in range(len(mine.doc_to_choice(item))):
            scores = [(-1.5 if n == favoured else -2.0 - n / 7, False) for n in range(len(mine.doc_to_choice(item)))]
            assert mine.process_results(item, scores) == theirs.process_results(doc, scores), name


def test_a_hub_row_becomes_the_normalised_row(real_data: Path) -> None:
    for name, (file, native) in NATIVE.items():
        benchmark = load_benchmark(name)
        for line in (real_data / f"{file}.jsonl").read_text().splitlines():
            row = json.loads(line)
            found = benchmark.normalise(Row("here", 1, native(row))).values
            assert found.keys() >= ({"answer"} if name in NO_ID else {"id", "answer"})
            if name == "sciq":  # the right answer is the last on the hub; the samples are shuffled
                assert found["choices"][found["answer"]] == row["choices"][row["answer"]]
                row = row | {"choices": found["choices"], "answer": 3}
            assert {field: row.get(field, found[field]) for field in found} == found, name


@pytest.mark.parametrize("name", sorted(NATIVE))
def test_a_local_file_gives_what_the_hub_gives(real_data: Path, tmp_path: Path, name: str) -> None:
    file, native = NATIVE[name]
    path = real_data / f"{file}.jsonl"
    task = BenchmarkTask(name="mine", source="benchmark", benchmark=name, path=path, items=40)
    make_task(TaskSettings(task=task, evaluation=Evaluation()), out=tmp_path / "mine")
    benchmark = load_benchmark(name)
    for item, line in zip(read_items(tmp_path / "mine"), path.read_text().splitlines(), strict=False):
        row = json.loads(line)
        assert item["id"] == row["id"]
        hub = native(row) | ({"support": ""} if name == "sciq" else {})
        assert benchmark.item(benchmark.normalise(Row("here", 1, hub)))["prompt"] == item["prompt"]
    about = json.loads((tmp_path / "mine" / "task.json").read_text())
    assert (about["source"], about["revision"], about["harness"]) == (str(path), None, benchmark.harness)
    assert about["items"] == min(40, len(path.read_text().splitlines()))


def exported(folder: Path, configuration: str, *rows: Fields) -> Path:
    """A data set as the hub exports it: of every configuration and split a folder of parquet files."""
    for other in (configuration, "zh"):
        for split in ("train", "test"):
            (folder / other / split).mkdir(parents=True)
            here = rows if (other, split) == (configuration, "test") else [{"else": 1}]
            Dataset.from_list(list(here)).to_parquet(folder / other / split / "0000.parquet")
    return folder


@pytest.mark.parametrize(("name", "native", "shape"), [("logiqa", logiqa, {"context": "c"}), ("headqa", headqa, {})])
def test_what_was_a_script_is_read_from_the_hubs_own_export(
    name: str, native: Callable[[Fields], Fields], shape: Fields, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"category": "x", "question": "Why?", "choices": list("wxyz"), **shape}
    rows = [native({"id": f"a-{n}", **asked, "answer": n % 4}) for n in range(9)]
    benchmark = load_benchmark(name)
    folder = exported(tmp_path / "export", str(benchmark.dataset.name), *rows)
    here = benchmark.dataset.model_copy(update={"path": str(folder)})
    monkeypatch.setattr(tasks_module, "load_benchmark", lambda _: benchmark.model_copy(update={"dataset": here}))
    make_task(
        TaskSettings(task=BenchmarkTask(name=name, source="benchmark"), evaluation=Evaluation()), out=tmp_path / "task"
    )
    assert [item["answer"] for item in read_items(tmp_path / "task")] == [n % 4 for n in range(9)]


@pytest.mark.parametrize(("own", "pinned"), [(None, "refs/convert/parquet"), ("c0ffee", "c0ffee")])
def test_the_exports_branch_is_pinned_unless_the_study_names_a_commit(
    own: str | None, pinned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []

    def load_dataset(path: str, **given: Any) -> list[Fields]:
        read.append((path, given))
        return [logiqa({"context": "c", "question": "q", "choices": list("wxyz"), "answer": 1})]

    class Api:
        def dataset_info(self, path: str, revision: str | None) -> Any:
            return type("Info", (), {"sha": f"commit of {revision}"})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    task = BenchmarkTask(name="logiqa", source="benchmark", revision=own)
    make_task(TaskSettings(task=task, evaluation=Evaluation()), out=tmp_path / "task")
    files = {"test": "logiqa/test/*.parquet"}
    expected = {"data_files": files, "split": "test", "revision": f"commit of {pinned}", "streaming": True}
    assert read == [("EleutherAI/logiqa", expected)]
    assert json.loads((tmp_path / "task" / "task.json").read_text())["revision"] == f"commit of {pinned}"


def test_a_data_set_that_is_a_script_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, **given: Any) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found piqa.py")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr(tasks_module, "pin", lambda path, revision, key: None)
    task = BenchmarkTask(name="piqa", source="benchmark")
    with pytest.raises(StudyError, match=r"task `piqa`: .* found piqa\.py; .*refs/convert/parquet`, or give a `path`"):
        make_task(TaskSettings(task=task, evaluation=Evaluation()), out=tmp_path / "task")


def test_without_support_the_prompt_is_the_harnesss() -> None:
    rows = [{"question": "q", "support": "", "distractor1": "a", "distractor2": "b", "distractor3": "c"}]
    rows[0]["correct_answer"] = "d"
    task = built_in(load_benchmark("sciq"), rows)
    row = Row("here", 1, {"question": "q", "choices": list("abcd"), "answer": 3})
    assert load_benchmark("sciq").item(row)["prompt"] == task.doc_to_text(rows[0]) == "\nQuestion: q\nAnswer:"


def test_the_text_without_trimmings_is_kept(tmp_path: Path) -> None:
    row = {"context": "All men are mortal.", "question": "Which follows?", "choices": list("wxyz"), "answer": 0}
    task = BenchmarkTask(name="logiqa", source="benchmark", path=jsonl(tmp_path / "rows.jsonl", row))
    make_task(TaskSettings(task=task, evaluation=Evaluation()), out=tmp_path / "task")
    assert read_items(tmp_path / "task")[0]["question"] == "All men are mortal.\nWhich follows?"
    row = {"question": "Plants grow towards", "choices": ["light", "dark"], "answer": 0}
    task = BenchmarkTask(name="openbookqa", source="benchmark", path=jsonl(tmp_path / "rows.jsonl", row))
    make_task(TaskSettings(task=task, evaluation=Evaluation()), out=tmp_path / "other")
    assert "question" not in read_items(tmp_path / "other")[0], "the prompt is the question"


@pytest.mark.parametrize(
    ("own", "samples", "tokens"), [({}, 4, 32768), ({"samples": 16, "max_new_tokens": 900}, 16, 900)]
)
def test_a_task_may_have_samples_and_a_limit_of_its_own(
    tmp_path: Path, own: dict[str, Any], samples: int, tokens: int
) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {"problem": "1+1?", "answer": "2"})
    task = BenchmarkTask(name="aime25", source="benchmark", path=path, **own)
    make_task(TaskSettings(task=task, evaluation=Evaluation(samples=4)), out=tmp_path / "task")
    about = json.loads((tmp_path / "task" / "task.json").read_text())
    assert about.get("samples", 4) == samples
    assert about["max_new_tokens"] == tokens
    text = (tmp_path / "task" / "task.yaml").read_text().replace("!function", "")
    assert yaml.safe_load(text)["repeats"] == samples


# ------------------------------------------------------------------------------------- answers of mathematics

RESPONSES = [
    (r"The answer is $\frac{3}{4}$", r"\frac{3}{4}", True, True),
    (r"$\frac34$", r"\frac{3}{4}", True, True),
    (r"So $x=5$.", "5", True, True),
    (r"It is $7$.", "5", False, False),
    ("I do not know", "5", False, False),
    ("", "5", False, False),
    (r"$p - q$", "p - q", True, True),
    (r"We get $0.75$", r"\frac{3}{4}", False, True),
    (r"First $2$, then $3$, so $\boxed{5}$", "5", False, True),
    (r"The sum is \boxed{12}", "12", False, True),
    (r"$\frac{6}{8}$", r"\frac{3}{4}", False, True),
]
"""Response, right answer, whether the harness's math task calls it right, whether math-verify does."""


@pytest.mark.parametrize(("response", "answer", "harness", "verified"), RESPONSES)
def test_answers_of_mathematics(response: str, answer: str, harness: bool, verified: bool) -> None:
    """Where the harness calls an answer right, so does math-verify, which is the more lenient one."""
    row = {"problem": "p", "solution": rf"so \boxed{{{answer}}}", "answer": answer}
    theirs = built_in(load_benchmark("math500"), [{**row, "subject": "", "level": 1, "unique_id": "x"}])
    assert theirs.process_results(row, [response])["exact_match"] == harness
    assert process_results({"prompt": "Problem: p\nAnswer:", "answer": answer}, [response])["acc"] == verified


@pytest.mark.parametrize("form", ["${}$", "The answer is ${}$.", r"So the answer is $\boxed{{{}}}$."])
def test_every_right_answer_of_mathematics_is_taken(real_data: Path, form: str) -> None:
    for line in (real_data / "math500_test.jsonl").read_text().splitlines():
        answer = json.loads(line)["answer"]
        assert process_results({"prompt": "Problem: p\nAnswer:", "answer": answer}, [form.format(answer)])["acc"], (
            answer
        )


@pytest.mark.parametrize(
    ("response", "harness", "verified"),
    [
        (r"\boxed{33}", True, True),
        ("33", True, True),
        ("$33$", True, True),
        (r"\boxed{033}", False, True),
        ("The answer is 33.", False, True),
        (r"\boxed{34}", False, False),
    ],
)
def test_answers_of_competitions(response: str, harness: bool, verified: bool) -> None:
    row = {"ID": "x", "Problem": "p", "Solution": "", "Answer": 33}
    theirs = built_in(load_benchmark("aime24"), [row])
    assert theirs.process_results(row, [response])["exact_match"] == harness
    assert process_results({"prompt": "Question: p\nAnswer:", "answer": "33"}, [response])["acc"] == verified


# --------------------------------------------------------------------------------------------- what is refused

MC = {"question": "q", "choices": ["a", "b", "c", "d", "e"], "answer": 1}


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("arc_easy", [MC, {"question": "q", "answer": 0}], r"task `t`: .*line 2: no `choices`"),
        ("arc_easy", [{**MC, "answer": 5}], r"task `t`: .*line 1: field `answer` is 5; it must be an index into 5"),
        ("arc_easy", [{**MC, "answer": "B"}], r"field `answer` is 'B'"),
        ("arc_easy", [{**MC, "question": " "}], r"line 1: field `question` is empty"),
        ("commonsenseqa", [{**MC, "choices": ["a", "b"]}], r"task `t`: .*line 1: list object has no element 2"),
        ("logiqa", [MC], r"task `t`: .*line 1: 'context' is undefined; the row has answer, choices, question"),
        ("math500", [{"problem": "p"}], r"task `t`: .*line 1: no field `answer`"),
        ("math500", [{"answer": "1"}], r"task `t`: .*line 1: no field `problem`"),
        ("piqa", [], r"task `t`: its source has no rows"),
        ("arc-easy", [MC], r"no benchmark `arc-easy`; did you mean `arc_easy`\?"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, name: str, rows: list[Fields], message: str) -> None:
    task = BenchmarkTask(name="t", source="benchmark", benchmark=name, path=jsonl(tmp_path / "bad.jsonl", *rows))
    with pytest.raises(StudyError, match=message):
        make_task(TaskSettings(task=task, evaluation=Evaluation()), out=tmp_path / "task")


def test_a_hub_row_of_another_form_is_named() -> None:
    row = Row("task `t`: allenai/ai2_arc (test), row 7", 7, {"id": "a", "question": "q", "choices": ["x", "y"]})
    with pytest.raises(StudyError, match=r"row 7: no `choices`: `choices\.text`: .*the row has choices, id, question"):
        load_benchmark("arc_easy").normalise(row)
    row = Row("row 8", 8, {"id": "a", "question": "q", "choices": {"text": ["x"], "label": ["A"]}, "answerKey": "1"})
    with pytest.raises(StudyError, match=r"row 8: no `answer`: .*'1' is not in list"):
        load_benchmark("arc_easy").normalise(row)


def test_offline_the_hub_is_named(tmp_path: Path) -> None:
    task = BenchmarkTask(name="aime24", source="benchmark")
    with pytest.raises(StudyError, match=r"task `aime24`: data set Maxwell-Jia/AIME_2024 cannot be found"):
        make_task(TaskSettings(task=task, evaluation=Evaluation()), out=tmp_path / "task")
