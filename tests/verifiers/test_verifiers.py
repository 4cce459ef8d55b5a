"""Verifiers: the built-in ones, the user's own, and what cannot be judged."""

import os
import signal
import threading
from pathlib import Path

import pytest

from rlgen.errors import StudyError
from rlgen.verifiers import BUILT_IN, Judgement, load_verifier
from rlgen.verifiers.formulas import _PROCESS, same_formula
from rlgen.verifiers.near import near_misses


@pytest.mark.parametrize(
    ("response", "gold", "extracted", "right"),
    [
        ("so \\boxed{12}", "12", "12", True),
        ("no idea", "12", "no idea", False),
        ("<think>\\boxed{12}", "12", None, False),
        ("\\boxed{12", "12", None, False),
        ("\\boxed{3} and \\boxed{5}", "3,5", "3, 5", True),
        ("\\boxed{3} and \\boxed{5}", "5", "5", True),
    ],
)
def test_what_was_read_is_told(response: str, gold: str, extracted: str | None, right: bool) -> None:
    assert load_verifier("math")(response, gold) == Judgement(extracted, right)


@pytest.mark.parametrize(
    ("verifier", "response", "gold", "right"),
    [
        ("text", "\\boxed{New York}", "new  york", True),
        ("text", "The answer is New York.", "New York", True),
        ("text", "York New", "New York", False),
        ("text", "\\boxed{1000}", "1,000", False),
        ("text", "<think>Rome", "Rome", False),
        ("choice", "The answer is (C).", "C", True),
        ("choice", "\\boxed{c}", "(C)", True),
        ("choice", "\\boxed{\\text{(C) } 12}", "C", True),
        ("choice", "C", "C", True),
        ("choice", "A is too small, so it is B", "B", True),
        ("choice", "A is too small, so it is B", "A", False),
        ("choice", "<think>(A)</think> (B)", "A", False),
        ("choice", "The answer is a guess", "A", False),
        ("choice", "\\boxed{", "A", False),
        ("number", "3 boxes of 4 make 12 eggs", "12", True),
        ("number", "3 boxes of 4 make 12 eggs", "4", False),
        ("number", "It costs $1,234.50", "1234.5", True),
        ("number", "half, that is 1/2", "0.5", True),
        ("number", "25%", "25", True),
        ("number", "\\boxed{x = 7}", "7", True),
        ("number", "-3", "3", False),
        ("number", "none", "3", False),
        ("number", "so 7. Then \\boxed{", "7", False),
    ],
)
def test_the_simple_verifiers(verifier: str, response: str, gold: str, right: bool) -> None:
    assert load_verifier(verifier)(response, gold).right is right


@pytest.mark.parametrize(
    ("verifier", "gold", "verifiable"),
    [
        *(("math", gold, True) for gold in ("72", "Paris", "6:00 PM", "\\frac{1}{4}", "180\\text{ miles}", "HTH")),
        *(
            ("math", gold, True)
            for gold in ("2516_8", "1990-1995", "(C)", "3,5", "0", "10^{10^{10}}", "0.16666666666666666")
        ),
        ("math", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", True),
        *(("math", gold, False) for gold in ("\\frac{1}{", "\\text{}", "first\nsecond", "", " ", "}")),
        ("choice", "C", True),
        ("choice", "Paris", False),
        ("number", "1,000", True),
        ("number", "Paris", False),
        ("text", "Paris", True),
        ("text", "", False),
    ],
)
def test_a_gold_is_verifiable_if_it_alone_is_right(verifier: str, gold: str, verifiable: bool) -> None:
    judge = load_verifier(verifier)
    assert judge.is_verifiable(gold) is verifiable
    assert not verifiable or judge(f"\\boxed{{{gold}}}", gold).right


def test_near_misses_are_near_and_wrong() -> None:
    assert "THH" in near_misses("HTH")
    assert "2516_{9}" in near_misses("2516_8")
    assert "-5" in near_misses("1990-1995")
    assert set(near_misses("1000")) == {"2000", "1001", "-1000"}


def test_a_gold_that_a_near_miss_matches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlgen.verifiers.mathematics.near_misses", lambda gold: ["0.5"])
    assert "near miss '0.5'" in str(load_verifier("math").unverifiable("\\frac{1}{2}"))


def test_real_golds_are_verifiable_and_their_solutions_right(real_data: Path) -> None:
    """Every gold of MATH500 and 300 of MATH's training rows, with the solutions that came with them."""
    import json

    judge = load_verifier("math")
    for name, count in (("math500_test", 500), ("math_train", 300), ("gsm8k_train", 300)):
        for line in (real_data / f"{name}.jsonl").read_text().splitlines()[:count]:
            row = json.loads(line)
            assert judge.unverifiable(row["answer"]) is None, row["answer"]
            assert judge(row["solution"], row["answer"]).right, row["id"]


# ------------------------------------------------------------------------------------- the process for formulas


def test_formulas_are_compared_off_the_main_thread() -> None:
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(same_formula("x+1+0", "1+x")))
    thread.start()
    thread.join()
    assert found == [True]


def test_a_killed_worker_is_started_again() -> None:
    assert same_formula("y+2", "2+y")
    assert _PROCESS._worker is not None
    os.kill(_PROCESS._worker.pid, signal.SIGKILL)
    _PROCESS._worker.wait()
    assert same_formula("y+3", "3+y")


def test_a_computation_without_end_is_wrong() -> None:
    assert not load_verifier("math")("\\boxed{\\binom{10^9}{5\\cdot 10^8}}", "5").right
    assert load_verifier("math")("\\boxed{5+x}", "x+5").right


# --------------------------------------------------------------------------------------------- the user's own

OWN = """
from rlgen.verifiers import Judgement

def boolean(response, gold): return response == gold
def pair(response, gold): return response.upper(), response == gold
def judgement(response, gold): return Judgement(None, True)
def number(response, gold): return 1
def nothing(response, gold): return None
def broken(response, gold): return 1 / 0
def leaves(response, gold): raise SystemExit(0)
constant = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_verifiers.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return "own_verifiers"


def test_a_user_s_own_is_found_beside_the_study(own: str) -> None:
    assert load_verifier(f"{own}:boolean")("so it is \\boxed{4}", "4") == Judgement("4", False)
    assert load_verifier(f"{own}:pair")("a", "a") == Judgement("A", True)
    assert load_verifier(f"{own}:judgement")("a", "b") == Judgement(None, True)
    assert load_verifier(f"{own}:pair").is_verifiable("whatever it is")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("number", r"verifier `own_verifiers:number`: returns 1 for the gold '4'; return True or False"),
        ("nothing", r"verifier `own_verifiers:nothing`: returns None"),
        ("broken", r"verifier `own_verifiers:broken`: raises ZeroDivisionError.* gold '4' and the response 'four'"),
        ("leaves", r"verifier `own_verifiers:leaves`: raises SystemExit: 0"),
    ],
)
def test_what_a_user_s_own_may_not_do_is_said(own: str, function: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        load_verifier(f"{own}:{function}")("four", "4")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maths", "there is no `maths`; use math, text, choice or number"),
        ("no_such_package.x:f", "cannot be imported"),
        ("own_verifiers_that_leave:f", r"cannot be imported: .* raises SystemExit: 0"),
        ("rlgen.verifiers:none", "has no `none`"),
        ("rlgen.verifiers:DEFAULT", "is not a function"),
    ],
)
def test_a_verifier_that_cannot_be_had_is_named(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_verifiers_that_leave.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=message):
        load_verifier(name)


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_verifiers_are_known_by_one_word(name: str) -> None:
    assert load_verifier(name).name == name
