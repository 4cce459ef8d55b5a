"""Training problems: every source, every filter, the card, and messages that name the row."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlgen.data.filters import level_of
from rlgen.data.miniature import judge
from rlgen.data.problems import make_problems, read_problems
from rlgen.data.tasks import make_task, read_items
from rlgen.errors import StudyError
from rlgen.models import load_tokenizer
from rlgen.stage import read_manifest
from rlgen.study.sections import (
    Evaluation,
    HubProblems,
    JsonlProblems,
    JsonlTask,
    MiniatureProblems,
    MiniatureTask,
    Problems,
    ProblemSource,
)
from rlgen.study.stages import ProblemsSettings, TaskSettings
from rlgen.verifiers import load_verifier
from tests.evaluation.tiny import make_tiny

WORLD = MiniatureProblems(source="miniature", task="mod", items=1000)
QUESTION = "Ann has 3 pens and buys 4 more pens in the shop on the corner. How many pens has Ann now?"


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def rows_of(path: Path, *rows: Any, **settings: Any) -> JsonlProblems:
    """A source of rows, `solution` null unless the rows have one."""
    solved = all(isinstance(row, dict) and "solution" in row for row in rows)
    settings.setdefault("solution", "solution" if solved else None)
    return JsonlProblems(source="jsonl", path=jsonl(path, *rows), **settings)


def make(
    tmp_path: Path, *sources: ProblemSource, seed: int = 0, inputs: dict[str, Any] | None = None, **settings: Any
) -> list[dict[str, Any]]:
    problems = Problems(sources=list(sources), **settings)
    make_problems(ProblemsSettings(seed=seed, problems=problems), out=tmp_path / "problems", **(inputs or {}))
    return read_problems(tmp_path / "problems")


def card(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "problems" / "card.json").read_text())
    return found


def dropped(tmp_path: Path) -> list[tuple[str, str, str]]:
    lines = (tmp_path / "problems" / "dropped.jsonl").read_text().splitlines()
    return [(row["id"], row["reason"], row["detail"]) for row in map(json.loads, lines)]


def evaluation_task(tmp_path: Path, name: str, *questions: str) -> Path:
    rows = ({"id": f"e{n}", "question": question, "answer": "1"} for n, question in enumerate(questions))
    path = jsonl(tmp_path / f"{name}.jsonl", *rows)
    task = JsonlTask(name=name, source="jsonl", path=path, format="generate", prompt="{question}")
    make_task(TaskSettings(task=task, evaluation=Evaluation()), out=tmp_path / name)
    return tmp_path / name


# ---------------------------------------------------------------------------------------------- sources


def test_miniature_problems_are_solved_and_kept_apart_from_every_evaluation(tmp_path: Path) -> None:
    rows = make(tmp_path, WORLD)
    assert len({row["prompt"] for row in rows}) == 1000
    assert all(judge(row["solution"], row["answer"])[1] for row in rows)
    assert rows != make(tmp_path, WORLD, seed=1)
    for seed in range(3):
        task = MiniatureTask(name="mod", source="miniature", items=400)
        make_task(TaskSettings(seed=seed, task=task, evaluation=Evaluation()), out=tmp_path / f"task-{seed}")
        assert not {row["prompt"] for row in rows} & {row["prompt"] for row in read_items(tmp_path / f"task-{seed}")}


def test_fields_of_a_file(tmp_path: Path) -> None:
    rows = {"id": "x", "q": "1 {+} 1?", "gold": 2, "why": "count"}, "", {"q": "b", "gold": "3", "why": "w"}
    source = rows_of(tmp_path / "a.jsonl", *rows, problem="q", answer="gold", solution="why")
    expected = {"id": "x", "problem": "1 {+} 1?", "prompt": "Q: 1 {+} 1?\n{}", "answer": "2", "solution": "count"}
    first, second = make(tmp_path, source, prompt="Q: {problem}\n{{}}")
    assert first == expected
    assert second["id"] == "3"
    unsolved = source.model_copy(update={"solution": None})
    assert [row["solution"] for row in make(tmp_path, unsolved)] == [None, None]


def test_a_data_set_reads_like_a_file(tmp_path: Path) -> None:
    rows = [{"id": str(n), "problem": f"{n} + 1?", "answer": n + 1, "solution": "s"} for n in range(30)]
    (tmp_path / "set").mkdir()
    jsonl(tmp_path / "set" / "a.jsonl", *rows)
    hub = HubProblems(source="hub", path=str(tmp_path / "set"), items=20)
    assert make(tmp_path, hub) == make(tmp_path, rows_of(tmp_path / "b.jsonl", *rows, items=20))
    with pytest.raises(StudyError, match=r"problems\.sources\.0: .*set \(train\), row 1: no field `q`"):
        make(tmp_path, hub.model_copy(update={"problem": "q"}))


def test_a_data_set_on_the_hub_is_read_at_the_commit_that_the_card_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def load_dataset(path: str, *, name: str | None, **given: Any) -> list[dict[str, Any]]:
        read.append((path, name, given["split"], given["revision"]))
        return [{"problem": "1 + 1?", "answer": "2", "solution": "s"}]

    class Api:
        def dataset_info(self, path: str, revision: str | None) -> Any:
            return type("Info", (), {"sha": f"commit of {path} at {revision}"})

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    make(tmp_path, HubProblems(source="hub", path="owner/set", name="main", revision="v1"))
    assert read == [("owner/set", "main", "train", "commit of owner/set at v1")]
    assert card(tmp_path)["sources"][0]["revision"] == "commit of owner/set at v1"


def holed(tmp_path: Path, **settings: Any) -> HubProblems:
    """A data set with a row in three that has no text in some field."""
    whole = [{"id": str(n), "problem": f"{n} + 1?", "answer": str(n + 1), "solution": "s"} for n in range(9)]
    holes = {1: {"problem": None}, 4: {"answer": " "}, 7: {"solution": None}}
    (tmp_path / "set").mkdir(exist_ok=True)
    jsonl(tmp_path / "set" / "a.jsonl", *(row | holes.get(n, {}) for n, row in enumerate(whole)))
    return HubProblems(source="hub", path=str(tmp_path / "set"), **settings)


@pytest.mark.parametrize("unverifiable", ["drop", "keep"])
def test_a_row_of_somebody_elses_that_lacks_a_text_is_left_out(tmp_path: Path, unverifiable: str) -> None:
    found = make(tmp_path, holed(tmp_path), unverifiable=unverifiable)
    assert [row["id"] for row in found] == ["0", "2", "3", "5", "6", "8"]
    assert dropped(tmp_path) == [
        (f, "incomplete", d) for f, d in (("1", "problem"), ("4", "answer"), ("7", "solution"))
    ]
    (counts,) = card(tmp_path)["sources"]
    assert (counts["read"], counts["kept"], counts["dropped"]) == (9, 6, {"incomplete": 3})
    unread = make(tmp_path, holed(tmp_path, solution=None), unverifiable=unverifiable)
    assert [row["id"] for row in unread] == ["0", "2", "3", "5", "6", "7", "8"], "a field that is not asked for"


def test_a_row_that_lacks_a_text_is_refused_where_nothing_may_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"row 2: field `problem` is empty; set `problems\.unverifiable: drop`"):
        make(tmp_path, holed(tmp_path))
    with pytest.raises(StudyError, match=r"row 1: no field `q`"):  # nobody's row has it: the study is wrong
        make(tmp_path, holed(tmp_path, problem="q"), unverifiable="drop")
    local = rows_of(tmp_path / "a.jsonl", {"problem": "1 + 1?", "answer": None})
    with pytest.raises(StudyError, match=r"line 1: field `answer` is null"):
        make(tmp_path, local, unverifiable="drop")


def test_ids_of_two_sources_may_be_the_same(tmp_path: Path) -> None:
    sources = [
        rows_of(tmp_path / f"{x}.jsonl", *({"problem": f"{x}{n}?", "answer": "1"} for n in range(3))) for x in "ab"
    ]
    assert [row["id"] for row in make(tmp_path, *sources)] == ["0:1", "0:2", "0:3", "1:1", "1:2", "1:3"]


def test_shuffling_keeps_every_row_and_follows_from_the_seed(tmp_path: Path) -> None:
    rows = [{"id": str(n), "problem": f"ü{n}?", "answer": str(n)} for n in range(200)]
    source = rows_of(tmp_path / "a.jsonl", *rows)
    plain = make(tmp_path, source)
    first, again, other = (make(tmp_path, source, shuffle=True, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert first != plain == sorted(first, key=lambda row: int(row["id"]))


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"problem": "a", "answer": "1"}], {"solution": "solution"}, r"line 1: no field `solution`"),
        ([{"problem": "a", "answer": "1"}, {"answer": "2"}], {}, r"line 2: no field `problem`"),
        ([{"problem": "a", "solution": "s"}], {}, r"line 1: no field `answer`; it has problem, solution"),
        ([{"problem": "a", "answer": " "}], {}, r"line 1: field `answer` is empty"),
        ([{"problem": "a", "answer": "1"}], {"level": "level", "levels": (1, 2)}, r"line 1: no field `level`"),
        ([], {}, r"no problem is left of 0 read from .*bad\.jsonl; training needs at least one"),
        (["{"], {}, r"line 1: not JSON"),
        (["[1]"], {}, r"line 1: not a JSON object"),
        ([{"id": 1, "problem": p, "answer": "1"} for p in "ab"], {}, r"id `1` is there twice"),
        (
            [{"problem": "a", "answer": "\\frac{1}{"}],
            {},
            r"line 1: verifier `math` cannot judge .*: a brace is not .*problems\.unverifiable: drop",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        make(tmp_path, rows_of(tmp_path / "bad.jsonl", *rows, **settings))
    assert not (tmp_path / "problems").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"gone\.jsonl"):
        make(tmp_path, JsonlProblems(source="jsonl", path=tmp_path / "gone.jsonl"))


# ---------------------------------------------------------------------------------------------- filters


def test_every_filter_drops_its_rows_and_the_card_counts_them(tmp_path: Path) -> None:
    make_tiny(tmp_path / "base")
    rows = [
        {"id": "easy", "problem": "1 + 1?", "answer": "2", "solution": "=2", "level": 1},
        {"id": "unsaid", "problem": "1 + 2?", "answer": "3", "solution": "=3", "level": "Level ?"},
        {"id": "kept", "problem": "2 + 2 = ?", "answer": "4", "solution": "=4", "level": "Level 3"},
        {"id": "again", "problem": " 2+2  = ", "answer": "4", "solution": "=4", "level": 4},
        {"id": "test", "problem": QUESTION.replace("buys", "gets"), "answer": "7", "solution": "=7", "level": 5},
        {"id": "long", "problem": "3 + 3?" + "?" * 60, "answer": "6", "solution": "=6", "level": 5.0},
        {"id": "wordy", "problem": "3 + 4?", "answer": "7", "solution": "=" * 30 + "7", "level": 5},
        {"id": "broken", "problem": "3 + 5?", "answer": "\\frac{8}{", "solution": "=8", "level": 5},
        {"id": "last", "problem": "3 + 6?", "answer": "9", "solution": "=9", "level": 3},
    ]
    source = rows_of(tmp_path / "a.jsonl", *rows, level="level", levels=(3, 5))
    inputs = {"tasks": [evaluation_task(tmp_path, "pens", "Why?", QUESTION)], "base": tmp_path / "base"}
    limits = {"max_prompt_tokens": 60, "max_solution_tokens": 30}
    found = make(tmp_path, source, inputs=inputs, unverifiable="drop", **limits)
    assert [row["id"] for row in found] == ["kept", "last"]
    shared = "shares `4 more pens in the shop on the corner how many pens has`"
    assert dropped(tmp_path) == [
        ("easy", "level", "1"),
        ("unsaid", "level", "Level ?"),
        ("again", "duplicate", "of kept"),
        ("test", "contaminated", f"pens, item e1: {shared}"),
        ("long", "prompt too long", "68 tokens"),
        ("wordy", "solution too long", "32 tokens"),
        ("broken", "unverifiable", "\\frac{8}{: a brace is not closed, or not opened"),
    ]
    about = card(tmp_path)
    assert (about["kept"], about["contaminated"]) == (2, {"pens": 1})
    (counts,) = about["sources"]
    assert (counts["read"], counts["kept"], counts["revision"]) == (9, 2, None)
    assert counts["dropped"] == {
        **{"level": 2, "duplicate": 1, "contaminated": 1, "unverifiable": 1},
        **{"prompt too long": 1, "solution too long": 1},
    }
    assert about["settings"]["max_prompt_tokens"] == 60


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (3, 3.0),
        (1e-05, 1e-05),
        ("Level 3", 3.0),
        ("level-3", 3.0),
        ("-1.5", -1.5),
        ("AMC 10, no. 7", 10.0),
        ("?", None),
    ],
)
def test_a_level_is_a_number_or_a_text_s_first_one(value: object, level: float | None) -> None:
    assert level_of(value) == level


def test_lengths_are_those_that_a_trainer_counts(tmp_path: Path) -> None:
    """A prompt as it is fed, a solution with its end token: their sum is the longest sequence."""
    make_tiny(tmp_path / "base")
    tokenizer = load_tokenizer(tmp_path / "base")
    source = rows_of(tmp_path / "a.jsonl", {"problem": "q 1", "answer": "2", "solution": "abc =2"})
    whole = len(tokenizer("q 1\nabc =2")["input_ids"]) + 1
    prompt = len(tokenizer("q 1\n")["input_ids"])
    inputs = {"base": tmp_path / "base"}
    assert make(tmp_path, source, inputs=inputs, max_prompt_tokens=prompt, max_solution_tokens=whole - prompt)
    for change in ({"max_prompt_tokens": prompt - 1}, {"max_solution_tokens": whole - prompt - 1}):
        with pytest.raises(StudyError, match=r"no problem is left of 1 read from .*, 1 (prompt|solution) too long"):
            make(tmp_path, source, inputs=inputs, **change)


def test_items_count_what_is_kept(tmp_path: Path) -> None:
    rows = [{"problem": f"{n // 2}?", "answer": "1"} for n in range(100)]
    assert [row["problem"] for row in make(tmp_path, rows_of(tmp_path / "a.jsonl", *rows, items=4))] == [
        *("0?", "1?", "2?", "3?")
    ]
    assert card(tmp_path)["sources"][0]["read"] == 7, "nothing is read beyond"


def test_a_problem_is_a_duplicate_of_one_that_was_kept(tmp_path: Path) -> None:
    rows = [{"problem": "1?", "answer": "1", "level": 9}, *[{"problem": "1?", "answer": "1", "level": 2}] * 2]
    first = rows_of(tmp_path / "a.jsonl", *rows, level="level", levels=(1, 5))
    found = make(tmp_path, first, rows_of(tmp_path / "b.jsonl", {"problem": "1", "answer": "1"}, rows[0]))
    assert [row["id"] for row in found] == ["0:2"]
    assert dropped(tmp_path)[1:] == [(name, "duplicate", "of 0:2") for name in ("0:3", "1:1", "1:2")]


def test_the_same_problems_are_the_same_artifact(tmp_path: Path) -> None:
    """What the arms read is the problems: another evaluation that takes none of them changes nothing for the arms."""
    source = rows_of(tmp_path / "a.jsonl", {"problem": "1 + 1?", "answer": "2"})
    digests = []
    for name in ("pens", "pencils"):
        make(tmp_path, source, inputs={"tasks": [evaluation_task(tmp_path, name, QUESTION)]})
        digests.append(read_manifest(tmp_path / "problems")["digest"])
    assert digests[0] == digests[1]


def test_gsm8k(tmp_path: Path, real_data: Path) -> None:
    rows = make(tmp_path, JsonlProblems(source="jsonl", path=real_data / "gsm8k_train.jsonl", items=50))
    assert len(rows) == 50
    assert all(load_verifier("math")(row["solution"], row["answer"]).right for row in rows)


def test_math_without_the_problems_that_math500_repeats(tmp_path: Path, real_data: Path) -> None:
    """Real rows: levels as texts, answers as LaTeX, some problems that share long runs with an evaluation item."""
    path = jsonl(
        tmp_path / "math500.jsonl",
        *({**row, "question": row["problem"]} for row in map(json.loads, (real_data / "math500_test.jsonl").open())),
    )
    task = JsonlTask(name="math500", source="jsonl", path=path, format="generate", prompt="{question}")
    make_task(TaskSettings(task=task, evaluation=Evaluation()), out=tmp_path / "math500")
    source = JsonlProblems(source="jsonl", path=real_data / "math_train.jsonl", level="level", levels=(3, 5))
    rows = make(tmp_path, source, inputs={"tasks": [tmp_path / "math500"]}, shuffle=True)
    about = card(tmp_path)
    (counts,) = about["sources"]
    assert counts["read"] == 1500 == counts["kept"] + sum(counts["dropped"].values())
    assert len(rows) == counts["kept"] > 800
    assert set(counts["dropped"]) == {"level", "contaminated"}
    assert about["contaminated"] == {"math500": counts["dropped"]["contaminated"]}
