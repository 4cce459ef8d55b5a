"""The verifiers `text`, `choice` and `number` (docs/answers.md)."""

from __future__ import annotations

import re

from rlgen.verifiers.compare import letters
from rlgen.verifiers.final import final, letter, sentences
from rlgen.verifiers.judgement import Judgement, Verifier
from rlgen.verifiers.latex import tidy
from rlgen.verifiers.near import near_misses
from rlgen.verifiers.numbers import plain_number, same_number

_GOLD_LETTER = re.compile(r"(?:option |choice )?[(\[]? ?([A-Za-z]) ?(?:[)\].:](?:\s.*)?)?", re.IGNORECASE | re.DOTALL)
_ALONE = re.compile(r"[(\[]([A-Za-z])[)\]]|(?<![\w'])([B-HJ-Z])(?![\w'])|^[\s*]*([A-Z])[.):\s*]*$", re.MULTILINE)
_NUMBERS = re.compile(
    r"[-+−]?[$€£]? ?(?:\\[dt]?frac ?\{ ?-?\d+ ?\} ?\{ ?-?\d+ ?\}|\\[dt]?frac ?\d ?\d|\d+ \d+/\d+|\d+/\d+"  # noqa: RUF001
    r"|\d{1,3}(?:(?:,|\{,\}|,\\!)\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?: ?\\?%)?"
)


def _plain(text: str) -> str:
    """A tidied text without its text commands."""
    return re.sub(r"\\text ?\{([^{}]*)\}", r"\1", tidy(text)).strip()


class Exact(Verifier):
    """`text`: the whole answer is compared, without regard to case, spaces and marks around it."""

    def __call__(self, response: str, gold: str) -> Judgement:
        """Judge a response, as `Verifier` says."""
        found = final(response)
        if found is None:
            return Judgement(None, False)
        tried = [found.boxes[-1]] if found.boxes else sentences(found)
        for answer in tried:
            if letters(tidy(answer)) == letters(tidy(gold)) != "":
                return Judgement(answer, True)
        return Judgement(tried[0] if tried and tried[0] else None, False)

    def unverifiable(self, gold: str) -> str | None:
        """Return why no response can be judged reliably against a gold, as `Verifier` says."""
        return None if letters(tidy(gold)) else "it has no letters or digits to compare"


class Letter(Verifier):
    """`choice`: one letter, in brackets or not, in any case; text after it is not read."""

    def __call__(self, response: str, gold: str) -> Judgement:
        """Judge a response, as `Verifier` says."""
        found = final(response)
        given = None
        if found is not None and found.boxes:
            match = _GOLD_LETTER.fullmatch(_plain(found.boxes[-1]))
            given = match[1] if match else None
        elif found is not None:
            match = _GOLD_LETTER.fullmatch(_plain(sentences(found)[0])) if sentences(found) else None
            given = match[1] if match else letter(found) if found.said else None
            if given is None:
                alone = list(_ALONE.finditer(found.passage if found.said else found.before))
                given = next(filter(None, alone[-1].groups())) if alone else None
        given = given.upper() if given else None
        wanted = self._letter(gold)
        return Judgement(given, given is not None and given == wanted)

    def unverifiable(self, gold: str) -> str | None:
        """Return why no response can be judged reliably against a gold, as `Verifier` says."""
        return None if self._letter(gold) else "it is no letter of a choice"

    @staticmethod
    def _letter(gold: str) -> str | None:
        match = _GOLD_LETTER.fullmatch(_plain(gold))
        return match[1].upper() if match else None


class LastNumber(Verifier):
    """`number`: the last number of the final answer, or of the response if nothing is in a box."""

    def __call__(self, response: str, gold: str) -> Judgement:
        """Judge a response, as `Verifier` says."""
        found = final(response)
        if found is None:
            return Judgement(None, False)
        texts = [found.boxes[-1]] if found.boxes else [found.before or found.passage]
        whole = plain_number(tidy(texts[0]))
        numbers = [texts[0].strip()] if whole else [number[0].strip() for number in _NUMBERS.finditer(texts[0])]
        wanted = plain_number(tidy(gold))
        given = plain_number(tidy(numbers[-1])) if numbers else None
        right = wanted is not None and given is not None and same_number(wanted, given)
        return Judgement(numbers[-1] if numbers else None, right)

    def unverifiable(self, gold: str) -> str | None:
        """Return why no response can be judged reliably against a gold, as `Verifier` says."""
        if plain_number(tidy(gold)) is None:
            return "it is no plain number"
        for miss in near_misses(gold):
            if self(f"\\boxed{{{miss}}}", gold).right:
                return f"the near miss {miss!r} is judged right"
        return None


SIMPLE: dict[str, type[Verifier]] = {"text": Exact, "choice": Letter, "number": LastNumber}
"""By name."""
