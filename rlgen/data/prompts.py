"""Prompt templates: text with fields such as `{question}`. A template can read the fields of a row and nothing else."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass

SECRET = ("answer", "solution")
"""Fields of a row that tell the model what to answer. The prompt of a task must not use them."""
_SHOWN = 60
"""Characters of a template that a message quotes."""


class PromptError(ValueError):
    """A template cannot be used. The caller adds where the template stands (key, file, row)."""

    def __init__(self, problem: str, remedy: str) -> None:
        """Keep what is wrong and what to do."""
        super().__init__(f"{problem}; {remedy}")
        self.problem = problem
        """What is wrong."""
        self.remedy = remedy
        """What to do."""


@dataclass(frozen=True)
class PromptTemplate:
    """A template that has been read: pieces of text, each followed by a field."""

    text: str
    """The template as it was written."""
    pieces: tuple[tuple[str, str | None], ...]
    """Pairs of literal text and the field after it; the field is None if there is none."""

    @classmethod
    def parse(cls, text: str) -> PromptTemplate:
        """Read a template.

        Args:
            text: Text with fields in braces. Doubled braces stand for single ones.

        Returns:
            The template.

        Raises:
            PromptError: The braces do not match, a field is not a plain name, there is no field at all, or the text
                cannot be written as UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"character {error.start + 1} is half of a surrogate pair", "write the whole character"
            ) from None
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise PromptError(
                f"the braces of {_shown(text)} do not match ({error})", "double the braces that are text: {{ and }}"
            ) from None
        pieces = tuple((literal, _plain(name, spec, how)) for literal, name, spec, how in parsed)
        found = cls(text, pieces)
        if not found.fields:
            raise PromptError(
                f"{_shown(text)} has no field, so every row would get the same prompt",
                "name a field of the rows in single braces, such as {question}",
            )
        return found

    @property
    def fields(self) -> list[str]:
        """The names of the fields, each once, in the order of their first use."""
        return list(dict.fromkeys(field for _, field in self.pieces if field is not None))

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the prompt of a row.

        Args:
            values: The text of each field.

        Returns:
            The template with each field replaced by its text. Braces in the values stay as they are.

        Raises:
            KeyError: `values` lacks a field of the template.
        """
        return "".join(text + (values[field] if field is not None else "") for text, field in self.pieces)


def fields_of(template: str) -> list[str]:
    """Return the fields of a template, each once. Raises PromptError as `PromptTemplate.parse` does."""
    return PromptTemplate.parse(template).fields


def check_template(
    template: str, forbidden: Collection[str] = SECRET, allowed: Collection[str] | None = None
) -> PromptTemplate:
    """Read a template and check which fields it uses.

    Args:
        template: The text of the template.
        forbidden: Fields that it must not use, whatever their case.
        allowed: The only fields that it can use; all if None.

    Returns:
        The template.

    Raises:
        PromptError: The template cannot be read, or uses a field that it must not or cannot use.
    """
    found = PromptTemplate.parse(template)
    secret = {field.casefold() for field in forbidden}
    for field in found.fields:
        if field.casefold() in secret:
            raise PromptError(
                f'uses the answer field "{field}"',
                "remove it, or the model sees the solution (braces that are text are doubled: {{" + field + "}})",
            )
        if allowed is not None and field not in allowed:
            names = ", ".join(f"{{{name}}}" for name in allowed)
            raise PromptError(f'uses a field "{field}"; it can use {names}', "double the braces that are text: {{ }}")
    return found


def _plain(name: str | None, spec: str | None, conversion: str | None) -> str | None:
    """Return a field's name; raise PromptError if it is more or less than a plain name."""
    if name is None:
        return None
    written = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
    if conversion or spec or set(name) & set(".[]{}") or name.isdecimal() or name != name.strip() or not name:
        raise PromptError(
            f"field {_shown('{' + written + '}')} is not the plain name of a field",
            "write a name alone, such as {question}, without an index, attribute, conversion, width or white space",
        )
    return name


def _shown(text: str) -> str:
    """Return a quoted beginning of a text."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "...")
