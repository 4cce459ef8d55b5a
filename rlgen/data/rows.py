"""One row of a file or a data set. The rules for its fields are here, once for tasks, problems and corpus."""

from __future__ import annotations

import math
from typing import Any

from rlgen.data.prompts import PromptTemplate
from rlgen.data.values import check_utf8, is_blank, listed, shown, text_of
from rlgen.errors import StudyError

ASKED = ("question", "problem")
"""Fields that hold what a row asks; a prompt that uses one of them needs text in it."""


class Row:
    """One line of a JSONL file, or one row of a data set."""

    def __init__(self, where: str, number: int, values: dict[str, Any]) -> None:
        """Keep a row's values with where they come from."""
        self.values = values
        """The object."""
        self.where = where
        """File and line, or data set and row number, for messages."""
        self.number = number
        """The line's or the row's number; the first is 1."""

    def get(self, field: str) -> Any:
        """Return a field's value. Raises StudyError if there is none or it is null."""
        if field not in self.values:
            raise StudyError(f"{self.where}: no field `{listed([field])}`; it has {listed(self.values)}")
        value = self.values[field]
        if value is None:
            raise self.wrong(field, "is null; write a value, or leave out the row")
        return value

    def text(self, field: str, blank: bool = False) -> str:
        """Return a field's value as text.

        Args:
            field: The field's name.
            blank: Whether a text of nothing but white space is allowed.

        Returns:
            The text. A number of a JSON file is the text that was written there, an exponent written out.

        Raises:
            StudyError: The field is missing, null, empty, or not a text or number.
        """
        try:
            found = text_of(self.get(field))
        except ValueError as error:
            raise self.wrong(field, str(error)) from None
        if not blank and is_blank(found):
            raise self.wrong(field, "is empty; write a text, or leave out the row")
        return found

    def document(self, field: str) -> str:
        """Return a document of a corpus, which can be empty. Raises StudyError if the field holds no text."""
        value = self.values.get(field)
        if not isinstance(value, str):
            held = f"it is {shown(value)}" if field in self.values else f"it has {listed(self.values)}"
            raise StudyError(
                f"{self.where}: no text in field `{listed([field])}`; {held.replace('None', 'null')}; "
                "name the field with the text, or leave out the row"
            )
        try:
            check_utf8(value)
        except ValueError as error:
            raise self.wrong(field, str(error)) from None
        return value

    def fill(self, template: PromptTemplate) -> str:
        """Return a prompt with the texts of the row's fields.

        Raises:
            StudyError: A field of the template is missing, null or not a text; what is asked is empty; or all are.
        """
        found = {field: self.text(field, blank=True) for field in template.fields}
        empty = [field for field, text in found.items() if is_blank(text)]
        for field in empty:
            if field in ASKED or len(empty) == len(found):
                self.text(field)
        return template.fill(found)

    def choices(self, field: str = "choices") -> list[str]:
        """Return the choices of an item. Raises StudyError unless they are two texts or more, none of them empty."""
        found = self.get(field)
        if not isinstance(found, list) or len(found) < 2:
            raise self.wrong(field, f"must be a list of two texts or more; it is {shown(found)}")
        for number, choice in enumerate(found):
            try:
                if not isinstance(choice, str):
                    raise ValueError(f"is {shown(choice).replace('None', 'null')}, not a text; write it in quotes")
                if is_blank(text_of(choice)):
                    raise ValueError("is empty; write a text, or leave out the row")
            except ValueError as error:
                raise self.wrong(field, f"must be a list of two texts or more; choice {number} {error}") from None
        return found

    def index(self, field: str, count: int) -> int:
        """Return the index of the right one of `count` choices. Raises StudyError if the field is anything else."""
        found = self.get(field)
        if type(found) is not int or not 0 <= found < count:
            raise self.wrong(
                field,
                f"is {shown(found)}; it must be an index into {count} choices: a whole number from 0 to {count - 1}, "
                "without quotes (0 is the first choice, A)",
            )
        return found

    def level(self, field: str) -> str | float:
        """Return a difficulty. Raises StudyError unless it is a text or a finite number."""
        found = self.get(field)
        number = isinstance(found, (int, float)) and not isinstance(found, bool)
        if not isinstance(found, str) and not (number and (isinstance(found, int) or math.isfinite(found))):
            raise self.wrong(field, f"is {shown(found)}; a level is a number, or a text such as `Level 3`")
        return found  # type: ignore[no-any-return]

    def name(self) -> str:
        """Return the row's id: its field `id`, or its number if there is none. Raises StudyError if it is no text."""
        value = self.values.get("id")
        if value is None or value == "":
            return str(self.number)
        return self.text("id")

    def with_values(self, values: dict[str, Any]) -> Row:
        """Return a row of other values that stands in the same place."""
        return Row(self.where, self.number, values)

    def wrong(self, field: str, problem: str) -> StudyError:
        """Return the error for a field: `problem` says what is wrong with it and what to do."""
        return StudyError(f"{self.where}: field `{listed([field])}` {problem}")
