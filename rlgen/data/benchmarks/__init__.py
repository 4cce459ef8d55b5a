"""Benchmarks, one YAML file each: the data set on the hub, how its rows read, and lm-evaluation-harness's prompt.

A hub row becomes a *normalised* row, the same whatever the data set calls its fields: {id, question, choices, answer}
with the index of the right choice, or {id, problem, answer} with the answer's text; some have a `context` or
`support` beside. A local file holds normalised rows. The prompt is a template over the normalised row. Templates and
expressions are Jinja's, the harness's own language, and an undefined field is an error.
"""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, PositiveInt

from rlgen.errors import StudyError

if TYPE_CHECKING:
    from jinja2 import Environment

    from rlgen.data.rows import Row

_FOLDER = Path(__file__).parent


class HubSplit(BaseModel):
    """A split of a data set on the hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    name: str | None = None
    """Its configuration."""
    split: str
    revision: str | None = None
    """Branch that is read unless the study names a commit; the main one if None."""
    files: str | None = None
    """Pattern of the split's files, of a data set that does not say so itself."""


class Benchmark(BaseModel):
    """What a benchmark's file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    harness: str
    """The harness's built-in task that it equals: prompts, choices, targets, metrics, stop strings."""
    dataset: HubSplit
    rows: PositiveInt
    """Rows of the split: what a plan counts with before it has been read."""
    format: Literal["multiple_choice", "generate"]
    row: dict[str, str]
    """The normalised row: an expression over the hub row for each field."""
    prompt: str
    """Template over the normalised row: what the model is given."""
    choices: str = "choices"
    """Expression over the normalised row: the texts whose likelihoods are compared."""
    text: str | None = None
    """Template over the normalised row: the item's text without the prompt's trimmings; question or problem if None."""
    metrics: list[Literal["acc", "acc_norm"]] = ["acc"]
    """What the harness reports of a multiple choice. Free answers have `acc`, by math-verify."""
    stop: list[str] = []
    """Where a free answer ends, beside the end token."""
    max_new_tokens: PositiveInt | None = None
    """The harness's own limit of a free answer, in tokens; None if it sets none."""

    def normalise(self, row: Row) -> Row:
        """A hub row's normalised row. Raises StudyError, naming row and field, if it is not as it should be."""
        found = {field: _value(expression, row, field) for field, expression in self.row.items()}
        return row.with_values(found)

    def item(self, row: Row) -> dict[str, Any]:
        """Return the fields of a normalised row as the model sees them: prompt, question, choices, answer.

        Raises:
            StudyError: A field is missing or holds something else; row and field are named.
        """
        multiple_choice = self.format == "multiple_choice"
        asked = "question" if multiple_choice else "problem"
        row.text(asked)
        if multiple_choice and "choices" in row.values:
            row.choices()
        for field in _fields(self.prompt + (self.text or "")):
            if field in row.values and field != "choices":
                row.text(field, blank=True)
        found = {
            "prompt": _filled(self.prompt, row),
            "question": _filled(self.text, row) if self.text else row.text(asked),
            "answer": row.get("answer"),
        }
        return found | ({"choices": _value(self.choices, row, "choices")} if multiple_choice else {})


def names() -> list[str]:
    """All benchmarks."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def nearest(name: str) -> str:
    """What may have been meant by a name that is no benchmark's, for a message."""
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
    return (f"did you mean `{near[0]}`? " if near else "") + f"use one of: {', '.join(names())}"


@cache
def load_benchmark(name: str) -> Benchmark:
    """The benchmark of that name. Raises StudyError if there is none."""
    path = _FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise StudyError(f"no benchmark `{name}`; {nearest(name)}")
    return Benchmark.model_validate(yaml.safe_load(path.read_text()))


@cache
def _jinja() -> Environment:
    """As the harness's own (`lm_eval.utils.env`)."""
    from jinja2 import Environment, StrictUndefined

    return Environment(undefined=StrictUndefined, keep_trailing_newline=True)


@cache
def _expression(text: str) -> Any:
    return _jinja().compile_expression(text, undefined_to_none=False)


@cache
def _template(text: str) -> Any:
    return _jinja().from_string(text)


@cache
def _fields(template: str) -> list[str]:
    """Return the fields of a row that a template reads."""
    from jinja2.meta import find_undeclared_variables

    return sorted(find_undeclared_variables(_jinja().parse(template)))


def _value(expression: str, row: Row, field: str) -> Any:
    """An expression's value over a row."""
    from jinja2 import TemplateError, Undefined

    try:
        found = _expression(expression)(row.values)
        if isinstance(found, Undefined):
            str(found)  # raises, and says what is undefined
        if found is None:
            raise LookupError("it is null")
    except (TemplateError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(
            f"{row.where}: no `{field}`: `{expression}`: {error}; the row has {', '.join(sorted(row.values))}"
        ) from None
    return found


def _filled(template: str, row: Row) -> str:
    from jinja2 import TemplateError

    try:
        return str(_template(template).render(row.values))
    except (TemplateError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(f"{row.where}: {error}; the row has {', '.join(sorted(row.values))}") from None
