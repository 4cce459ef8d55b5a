"""Functions that a study names are found and read, and never run."""

import sys
from pathlib import Path

import pytest

from rlgen.study import parse_study
from tests.study.settings import GOOD, assert_refused, put

FILE = """
import os.path as paths
from json import dumps
NUMBER, OTHER = 1, 2
LIST = [1]

class Scorer:
    def __call__(self, completions, **columns): return [0.0] * len(completions)

scorer = Scorer()
short = lambda completions, **columns: [0.0] * len(completions)

def good(prompts, completions, answer, strict=True, **columns): return [0.0] * len(completions)
def two(a, b): return True
def plain(completions): return [0.0]
def other(completions, gold, **columns): return [0.0]
def only(completions, *, anser, **columns): return [0.0]
def placed(completions, /, **columns): return [0.0]
async def later(completions, **columns): return [0.0]
def one(text): return True
def three(a, b, c): return True
try:
    import nothing_of_this_name as maybe
except ImportError:
    def maybe(completions, **columns): return [0.0]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with modules in it."""
    monkeypatch.chdir(tmp_path)
    modules = {
        "mine": FILE,
        "pack/deep/inner": FILE,
        "wrong": "def reward(:\n    pass\n",
        "wrong_late": "x = 1\n\nif x\n    pass\n",
        "nul": "x = 1\0",
        "latin": "x = 'é'",
        "star": "from mine import *\n",
        "lazy": "def __getattr__(name): ...\n",
        "needs": "import nothing_of_this_name.at_all\ndef reward(**columns): return []\n",
        "needs_from": "from nothing_of_this_name import x\ndef reward(**columns): return []\n",
        "raises": "def reward(**columns): return []\nraise SystemExit(1)\n",
        "runs": "open('ran', 'w')\ndef reward(**columns): return []\n",
    }
    for name, text in modules.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="latin1" if name == "latin" else "utf-8")
    (tmp_path / "bare").mkdir()
    return tmp_path


FORM = "package.module:function"
REWARDS = {
    **dict.fromkeys(("", ":", "a", "a.b", ".x:y", "a.:y", "a..b:y", "a:b:c", "a:", ":b", "a b:c", "a:b.c"), FORM),
    **dict.fromkeys(("a-b:c", "1a:b", "a:1", "a/b:c", "a.py:c()", "class:x", "a:def", "a:b ", "a\n:b"), FORM),
    "nowhere:reward": "start from the folder that holds it",
    "nowhere.deep:reward": "start from the folder",
    "mine.deep:reward": FORM,
    "pack.nowhere:reward": "start from the folder",
    "bare:reward": "name a module in it",
    "mine:goods": "did you mean `good`",
    "pack.deep.inner:nothing_alike_xyz": "define it at the top level",
    "wrong:reward": "correct it",
    "wrong_late:reward": "correct it",
    "nul:reward": "",
    "latin:reward": "",
    "needs:reward": "install it",
    "needs_from:reward": "install it",
    "raises:reward": "correct it",
    "mine:LIST": "name a function",
    "mine:paths": "name a function of it",
    "mine:Scorer": "an object of the class",
    "mine:plain": "add `**columns`",
    "mine:later": "define it by `def`",
    "mine:other": "give other arguments a default",
    "mine:only": "did you mean `answer`",
    "mine:placed": "remove the `/`",
    "rlgen.posttrain.rewards:final_anser": "did you mean `final_answer`",
    "rlgen.posttrain.reward:final_answer": "start from the folder",
    "json:nothing_alike_xyz": "define it",
}


@pytest.mark.parametrize("name", REWARDS, ids=ascii)
def test_a_reward_that_cannot_be_used_is_refused(here: Path, name: str) -> None:
    assert_refused(put("arms.1.reward", name), "arms[1].reward", REWARDS[name])
    assert not (here / "ran").exists()


def test_a_module_that_is_not_python_is_told_with_its_line(here: Path) -> None:
    with pytest.raises(Exception, match=r"wrong\.py, line 1: not valid Python"):
        parse_study(changed("arms.1.reward", "wrong:reward"))
    with pytest.raises(Exception, match=r"wrong_late\.py, line 3: not valid Python"):
        parse_study(changed("arms.1.reward", "wrong_late:reward"))


def changed(path: str, name: str) -> dict[str, object]:
    import copy

    settings = copy.deepcopy(GOOD)
    put(path, name)(settings)
    return settings


GOODS = ["mine:good", "mine:scorer", "mine:short", "mine:maybe", "mine:dumps", "mine:NUMBER", "pack.deep.inner:good"]
GOODS += ["star:good", "lazy:anything", "runs:reward", "rlgen.posttrain.rewards:final_answer", "math:sqrt"]


@pytest.mark.parametrize("name", GOODS)
def test_what_can_be_a_reward_is_taken_and_not_run(here: Path, name: str) -> None:
    before = set(sys.modules)
    parse_study(changed("arms.1.reward", name))
    assert not (here / "ran").exists()
    assert not {"mine", "pack", "star", "lazy", "runs"} & (set(sys.modules) - before)


@pytest.mark.parametrize("name", ["mine:one", "mine:three", "mine:Scorer", "mine:nothing", "thinks", "nowhere:x"])
def test_a_mode_that_cannot_be_used_is_refused(here: Path, name: str) -> None:
    assert_refused(put("interventions.mode", name), "interventions.mode", "")


def test_a_mode_takes_two_texts(here: Path) -> None:
    parse_study(changed("interventions.mode", "mine:two"))


def test_functions_are_looked_for_only_when_all_else_is_right(here: Path) -> None:
    settings = changed("arms.1.reward", "nowhere:reward")
    settings["tracking"] = {"crosscoders": ["base-dpo"], "tokens": 8192}
    with pytest.raises(Exception, match="base-dpo") as caught:
        parse_study(settings)
    assert "nowhere" not in str(caught.value)
