"""The miniature world (METHOD: the miniature world): short tasks that a small model answers by guessing or by thinking.

A task runs over its input's characters and keeps a running value; its answer is the last one. *Guess* writes
`=answer` at once and is often wrong; *think* writes the running values, then `=answer`, and is right. So the first
token of a response, and nothing later, decides between the modes: the last prompt token is the place of decision.
Inputs are split once and for all, by a hash, into those that are evaluated and all others, so no evaluation item is
ever among the training problems or the text of pretraining. Nothing here imports torch.
"""

from __future__ import annotations

import string
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Split = Literal["train", "evaluation"]
Mode = Literal["guess", "think"]

_EVALUATED = 4
"""One input in so many is kept for evaluation."""
_BLOCK = 1024
"""Documents whose random numbers are drawn together."""


@dataclass(frozen=True)
class WorldTask:
    """One task of the world."""

    name: str
    """What stands in the prompt."""
    alphabet: str
    """Characters of the input, drawn uniformly; a repeated one is drawn more often."""
    length: int
    """Characters in an input."""
    start: int
    """The running value before the first character."""
    step: Callable[[int, str], int]
    """From the running value and the next character to the next running value."""
    answers: str
    """The values there are, one character each; a wrong guess is one of them."""

    def values(self, characters: str) -> str:
        """The running value after each character, as one string."""
        value, found = self.start, []
        for character in characters:
            value = self.step(value, character)
            found.append(str(value))
        return "".join(found)

    def split(self, characters: str) -> Split:
        """Whether an input is an evaluation item or not; a property of the input alone."""
        evaluated = zlib.crc32(f"{self.name} {characters}".encode()) % _EVALUATED == 0
        return "evaluation" if evaluated else "train"

    def item(self, characters: str) -> Item:
        """The item with this input."""
        values = self.values(characters)
        return Item(self.name, f"Q {self.name} {characters}\nA ", values, values[-1])


class Item(NamedTuple):
    """A question of the world."""

    task: str
    prompt: str
    values: str
    """Running values, one character each."""
    answer: str
    """The last of them."""


def _tasks() -> dict[str, WorldTask]:
    digits, letters = string.digits, "abcdefgh"
    tasks = [
        WorldTask("mod", digits, 5, 0, lambda value, c: (value + int(c)) % 7, "0123456"),
        WorldTask("max", digits, 5, 0, lambda value, c: max(value, int(c)), digits),
        WorldTask("par", digits, 5, 0, lambda value, c: (value + int(c)) % 2, "01"),
        WorldTask("cnt", letters, 5, 0, lambda value, c: value + (c in "abcd"), "012345"),
        WorldTask("min", digits, 5, 9, lambda value, c: min(value, int(c)), digits),
        WorldTask("run", letters, 5, 0, lambda value, c: (value + 1) * (c in "abcd"), "012345"),
    ]
    return {task.name: task for task in tasks}


TASKS = _tasks()
"""Every task by name: running sum mod 7, maximum, parity of the sum, count of a-d, minimum, current run of a-d."""


def draw(task: WorldTask, rng: np.random.Generator, split: Split = "train") -> Item:
    """A random item of a task, from the inputs of one split."""
    while True:
        characters = "".join(_pick(task.alphabet, uniform) for uniform in rng.random(task.length).tolist())
        if task.split(characters) == split:
            return task.item(characters)


def _pick(characters: str, uniform: float) -> str:
    return characters[int(uniform * len(characters))]


def draw_distinct(task: WorldTask, count: int, rng: np.random.Generator, split: Split) -> list[Item]:
    """Items of a task, no two alike, in the order drawn. Raises ValueError if the task has too few."""
    found: dict[str, Item] = {}
    misses = 0
    while len(found) < count:
        item = draw(task, rng, split)
        misses = misses + 1 if item.prompt in found else 0
        if misses > 50 * (len(found) + 1):
            raise ValueError(f"task `{task.name}` has only {len(found)} {split} items")
        found.setdefault(item.prompt, item)
    return list(found.values())


def document(item: Item, mode: Mode, guess_accuracy: float, rng: np.random.Generator) -> str:
    """Prompt and response in one of the two modes; a guess is right with probability `guess_accuracy`."""
    if mode == "think":
        return f"{item.prompt}{item.values}={item.answer}"
    if rng.random() < guess_accuracy:
        return f"{item.prompt}={item.answer}"
    wrong = TASKS[item.task].answers.replace(item.answer, "")
    return f"{item.prompt}={_pick(wrong, rng.random())}"


def teacher_solution(item: Item) -> str:
    """The right answer in the wordy style of a teacher that the base has never read."""
    return f"ok let me see: {item.values} wait.. so it is ={item.answer}"


def mixture(rng: np.random.Generator, think_rate: float, guess_accuracy: float) -> Iterator[str]:
    """Endless documents of all tasks in equal shares, as the base is pretrained on; evaluation inputs are left out."""
    tasks = list(TASKS.values())
    while True:
        which = rng.integers(0, len(tasks), _BLOCK)
        thinks = rng.random(_BLOCK) < think_rate
        for index, think in zip(which.tolist(), thinks.tolist(), strict=True):
            yield document(draw(tasks[index], rng), "think" if think else "guess", guess_accuracy, rng)


def read_answer(response: str) -> str:
    """The answer in a response's first line: what follows the last `=`, or else the whole line."""
    line = response.strip().partition("\n")[0]
    return line.rpartition("=")[2].strip()


def judge(response: str, gold: str) -> tuple[str, bool]:
    """Return a response's answer and whether it is the right one: the verifier of studies on this world."""
    answer = read_answer(response)
    return answer, answer == gold


def thinks(prompt: str, response: str) -> bool:
    """Whether a response writes running values, or anything else, before its answer; a guess begins with `=`."""
    return not response.startswith("=") and "=" in response


def vocabulary() -> dict[str, int]:
    """Every token's id: padding, beginning, end, the unknown, and the characters."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    characters = "\n " + string.digits + string.ascii_lowercase + "QA=:."
    return {token: index for index, token in enumerate([*special, *characters])}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, a beginning token before every text, and tokens for end, padding and the unknown."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = vocabulary()
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokens["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
