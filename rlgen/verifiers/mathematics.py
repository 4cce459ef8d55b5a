"""The verifier `math`: golds are mathematics, or the words, ranges, choices and numbers in a base that they are."""

from __future__ import annotations

from rlgen.verifiers.compare import same
from rlgen.verifiers.final import final, formula, letter, sentences
from rlgen.verifiers.judgement import Judgement, Verifier
from rlgen.verifiers.kinds import Choice, Many, Text, read
from rlgen.verifiers.latex import balanced, tidy
from rlgen.verifiers.near import near_misses


class Mathematics(Verifier):
    """Compares values where golds are mathematics, and letters where they are words (docs/answers.md)."""

    def __call__(self, response: str, gold: str) -> Judgement:
        """Judge a response, as `Verifier` says."""
        found = final(response)
        if found is None:
            return Judgement(None, False)
        kind = read(gold)
        listed = isinstance(kind, Many) and kind.opening in ("", r"\{")
        if found.boxes:
            joined = ", ".join(found.boxes) if listed else found.boxes[-1]
            for answer in dict.fromkeys((joined, found.boxes[-1])):
                if same(gold, answer):
                    return Judgement(answer, True)
            return Judgement(joined or None, False)
        whole = sentences(found)
        inside = formula(found, listed)
        tried = [*whole]
        if isinstance(kind, Choice):
            tried += filter(None, [letter(found) if found.said else None])
        elif not isinstance(kind, Text) and inside is not None:
            tried.append(inside)
        for answer in tried:
            if same(gold, answer):
                return Judgement(answer, True)
        return Judgement(tried[-1] if tried else None, False)

    def unverifiable(self, gold: str) -> str | None:
        """Return why no response can be judged reliably against a gold, as `Verifier` says."""
        if not tidy(gold):
            return "it is empty"
        if not balanced(gold):
            return "a brace is not closed, or not opened"
        if "\n" in gold.strip() and "\\begin" not in gold:
            return "it has several lines"
        if not self(f"\\boxed{{{gold}}}", gold).right:
            return "a response that repeats it is judged wrong"
        for miss in near_misses(gold):
            if self(f"\\boxed{{{miss}}}", gold).right:
                return f"the near miss {miss!r} is judged right"
        return None
