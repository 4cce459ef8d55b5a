"""A teacher's solutions: the first right one of each problem, and the same bytes however often it is interrupted."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlgen.data.miniature import judge
from rlgen.data.problems import make_problems, read_problems
from rlgen.errors import StudyError
from rlgen.models import load_tokenizer
from rlgen.posttrain.adopt import adopt
from rlgen.posttrain.engines import TransformersEngine, Written
from rlgen.posttrain.teacher import teach
from rlgen.stage import content_digest, derive_seed
from rlgen.study import parse_study
from rlgen.study.sections import JsonlProblems, Problems, Teacher
from rlgen.study.stages import AdoptSettings, ProblemsSettings, TeacherSettings
from tests.data.test_problems import jsonl
from tests.evaluation.tiny import make_tiny
from tests.workflow.study_run import tiny_settings

COUNT, TRIES = 40, 3
WORLD = "rlgen.data.miniature:judge"
TEACHER = Teacher(path="tiny", chat=False, tries=TRIES, temperature=1.0, max_new_tokens=32, batch_size=8)
TEMPLATE = "{% for m in messages %}Q {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A {% endif %}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def answers(tiny: Path) -> dict[int, list[Written]]:
    """What the teacher writes, by try, each problem's in a batch of all."""
    tokenizer = load_tokenizer(tiny)
    engine = TransformersEngine(TEACHER, tiny, tokenizer, derive_seed(0, "teacher"))
    prompts = [list(tokenizer(f"q {n}.")["input_ids"]) for n in range(COUNT)]
    return {number: engine.write(prompts, number) for number in range(TRIES)}


@pytest.fixture(scope="module")
def problems(answers: dict[int, list[Written]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problems whose right answers are such that known ones are solved, by known tries."""
    folder = tmp_path_factory.mktemp("problems")
    rows = []
    for n in range(COUNT):
        ended = [texts[n].text.strip() for texts in answers.values() if texts[n].ended]
        gold = ended[-1].rpartition("\n")[2].strip() if ended else ""
        rows.append({"id": f"p{n}", "problem": f"q {n}.", "answer": gold or "zzz", "solution": "came with it"})
    source = JsonlProblems(source="jsonl", path=jsonl(folder / "rows.jsonl", *rows))
    make_problems(ProblemsSettings(problems=Problems(sources=[source], unverifiable="keep")), out=folder / "problems")
    return folder / "problems"


def run(
    tiny: Path, problems: Path, out: Path, base: Path | None = None, limit: int | None = None, **changes: Any
) -> Any:
    settings = TeacherSettings(teacher=TEACHER.model_copy(update=changes), max_solution_tokens=limit, verifier=WORLD)
    teach(settings, model=tiny, problems=problems, out=out, base=base)
    return json.loads((out / "card.json").read_text())


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_first_right_solution_that_ended_is_taken(
    tiny: Path, problems: Path, answers: dict[int, list[Written]], tmp_path: Path
) -> None:
    card = run(tiny, problems, tmp_path / "out")
    given = read_problems(problems)
    expected: dict[str, str] = {}
    tries = [0] * TRIES
    for n, row in enumerate(given):
        for number, texts in answers.items():
            if texts[n].ended and judge(texts[n].text, row["answer"])[1]:
                expected[row["id"]] = texts[n].text
                tries[number] += 1
                break
    found = read_problems(tmp_path / "out")
    assert {row["id"]: row["solution"] for row in found} == expected
    assert len(tries) - tries.count(0) > 1, "more than one try solves something"
    plain = [{key: row[key] for key in row if key != "solution"} for row in given if row["id"] in expected]
    assert [{key: row[key] for key in row if key != "solution"} for row in found] == plain, "in their own order"

    assert (card["problems"], card["kept"], card["acceptance"]) == (COUNT, len(found), len(found) / COUNT)
    assert [a["outcomes"].get("right", 0) for a in card["tries"]] == tries
    assert [a["sampled"] for a in card["tries"]] == [COUNT - sum(tries[:n]) for n in range(TRIES)]
    for about in (*card["tries"], card):
        assert sum(about["outcomes"].values()) == about.get("sampled", sum(a["sampled"] for a in card["tries"]))
    dropped = rows_of(tmp_path / "out" / "dropped.jsonl")
    assert {row["id"] for row in dropped} == {row["id"] for row in given} - expected.keys()
    assert all(len(row["detail"].split(", ")) == TRIES for row in dropped)


def test_solutions_too_long_for_the_base_are_not_taken(tiny: Path, problems: Path, tmp_path: Path) -> None:
    free = run(tiny, problems, tmp_path / "free")
    lengths = {row["id"]: len(row["solution"]) + 1 for row in read_problems(tmp_path / "free")}  # a token a character
    limit = sorted(lengths.values())[len(lengths) // 2]
    card = run(tiny, problems, tmp_path / "out", base=tiny, limit=limit, tries=1)
    kept = {row["id"] for row in read_problems(tmp_path / "out")}
    assert kept <= {name for name, length in lengths.items() if length <= limit}
    assert card["outcomes"].get("too long", 0) + len(kept) == free["tries"][0]["outcomes"]["right"]


@pytest.mark.parametrize("units", [1, 7])
def test_an_interrupted_lesson_ends_with_the_same_bytes(
    units: int, tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny, problems, tmp_path / "undisturbed")
    write, calls = TransformersEngine.write, iter(range(units))

    def until_stopped(self: TransformersEngine, *args: Any) -> list[Written]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return write(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "write", until_stopped)
        with pytest.raises(KeyboardInterrupt):
            run(tiny, problems, tmp_path / "killed")
    assert len(list((tmp_path / "killed.partial").rglob("try-*.json"))) == units
    run(tiny, problems, tmp_path / "killed")
    assert content_digest(tmp_path / "killed") == content_digest(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_killed_lesson_ends_with_the_same_bytes(tiny: Path, problems: Path, tmp_path: Path) -> None:
    """SIGKILL, each time a few units later: whatever it was writing is there whole or not at all."""
    settings = TeacherSettings(teacher=TEACHER.model_copy(update={"batch_size": 2}), verifier=WORLD)
    words = [sys.executable, "-m", "rlgen", "teacher", "--settings", settings.canonical(), "--model", str(tiny)]
    words += ["--problems", str(problems), "--out", str(tmp_path / "killed")]
    for units in (1, 9, 20):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "killed.partial").rglob("try-*.json"))) < units and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
    subprocess.run(words, check=True, timeout=120, capture_output=True)
    run(tiny, problems, tmp_path / "undisturbed", batch_size=2)
    assert content_digest(tmp_path / "killed") == content_digest(tmp_path / "undisturbed")


def test_a_chat_template_is_used_or_missed(tiny: Path, problems: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"teacher\.chat: .*tiny.* has no chat template; set `chat: false`"):
        run(tiny, problems, tmp_path / "out", chat=True)
    shutil.copytree(tiny, tmp_path / "chatty")
    tokenizer = load_tokenizer(tiny)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "chatty")
    asked: list[str] = []

    def write(self: TransformersEngine, prompts: list[list[int]], sample: int) -> list[Written]:
        asked.extend(tokenizer.decode(ids) for ids in prompts)
        return [Written("zzz", True) for _ in prompts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransformersEngine, "write", write)
        run(tmp_path / "chatty", problems, tmp_path / "out", chat=True, prompt="so: {problem}", tries=1)
    assert asked[:2] == ["Q so: q 0.\nA ", "Q so: q 1.\nA "], "as the template says, with no second beginning token"


def test_what_cannot_be_taught_is_named(tiny: Path, problems: Path, tmp_path: Path) -> None:
    for prompt, message in (("Solve.", "has no field"), ("{problem} {answer}", 'uses the answer field "answer"')):
        with pytest.raises(StudyError, match=rf"teacher\.prompt: .*{message}"):
            run(tiny, problems, tmp_path / "p", prompt=prompt)
    with pytest.raises(StudyError, match=r"teacher\.max_new_tokens: 125, after \d of problem `p0`, exceed the 128 of"):
        run(tiny, problems, tmp_path / "a", max_new_tokens=125)
    with pytest.raises(
        StudyError, match=rf"the teacher solved none of {COUNT} problems: 0 right, .* {COUNT} unfinished"
    ):
        run(tiny, problems, tmp_path / "b", max_new_tokens=1, tries=1)


# ------------------------------------------------------------------------------------------------- vLLM


def test_vllm_that_is_not_installed_is_asked_for(
    tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(StudyError, match=r"teacher\.engine: vllm cannot be imported .*`pip install vllm`"):
        run(tiny, problems, tmp_path / "out", engine="vllm")


def test_vllm_is_given_the_adopted_model_and_a_seed_for_every_solution(
    tiny: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    sampled: list[tuple[list[int], Any]] = []

    class LLM:
        def __init__(self, **given: Any) -> None:
            made.append(given)

        def generate(self, prompts: list[Any], settings: list[Any], use_tqdm: bool) -> list[Any]:
            sampled.extend((p["prompt_token_ids"], s) for p, s in zip(prompts, settings, strict=True))
            ends = ["stop" if n else "length" for n in range(len(prompts))]
            return [SimpleNamespace(outputs=[SimpleNamespace(text="zzz", finish_reason=end)]) for end in ends]

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=SimpleNamespace))
    study = parse_study({**tiny_settings(), "teacher": {"path": str(tiny), "chat": False}})
    adopt(AdoptSettings.of(study, "teacher"), out=tmp_path / "teacher")
    run(tmp_path / "teacher", problems, tmp_path / "out", engine="vllm", tries=2)
    (given,) = made
    assert (given["model"], given["load_format"], given["trust_remote_code"]) == (str(tiny), "safetensors", False)
    longest = max(len(prompt) for prompt, _ in sampled)
    assert given["max_model_len"] == longest + 32 < 128, "not all that the model can take"
    assert {(s.temperature, s.top_p, s.max_tokens) for _, s in sampled} == {(1.0, 0.95, 32)}
    assert len({s.seed for _, s in sampled}) == len(sampled) > COUNT, "another one for every problem and try"
    assert sampled[0][0] == load_tokenizer(tiny)("q 0.")["input_ids"]
    dropped = rows_of(tmp_path / "out" / "dropped.jsonl")
    assert {"wrong, wrong", "unfinished, wrong"} <= {row["detail"] for row in dropped}
