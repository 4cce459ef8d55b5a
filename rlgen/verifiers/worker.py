"""The process that compares formulas: reads requests line by line, and is killed by the kernel if one takes too long.

Formulas come from models, and a short one may ask for more digits than there is memory (`10^{10^{10}}`). No exception
stops a computation in C, so the limits are the process's own: a timer on its processor time, and its address space.
`rlgen.verifiers.formulas` starts it and starts it again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import resource
import signal
import sys
from fractions import Fraction
from random import Random
from typing import Any

import sympy
from math_verify.parser import NormalizationConfig, latex2sympy, normalize_latex
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

SECONDS = 5.0
"""Processor time of one comparison."""
_WALL = 60.0
"""Wall-clock time of one comparison, if something but computing takes it."""
_MEMORY = 2 << 30
_MOST_BITS, _MOST_FACTORIAL = 200_000, 20_000
"""Larger powers and factorials are not computed: they are equal to nothing but themselves."""
_DIGITS = 50
_CLOSE = sympy.Float("1e-35", 60)
_POINTS, _NEEDED = 12, 4
_MOST_SYMBOLS = 30
_FLIPPED = {
    sympy.GreaterThan: sympy.LessThan,
    sympy.LessThan: sympy.GreaterThan,
    sympy.StrictGreaterThan: sympy.StrictLessThan,
    sympy.StrictLessThan: sympy.StrictGreaterThan,
}
_NORMAL = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)


def parse(latex: str) -> Any:
    """Return the sympy object that LaTeX means: decimals exact, `i` the imaginary unit. Raises on what is none."""
    normal = normalize_latex(latex, config=_NORMAL)
    found = latex2sympy(normal, is_real=False, convert_degrees=False, normalization_config=None)
    if isinstance(found, sympy.Basic):
        exact = {number: sympy.Rational(str(number)) for number in found.atoms(sympy.Float)}
        named: dict[Any, Any] = {symbol: sympy.Symbol(symbol.name) for symbol in found.free_symbols}
        named |= {symbol: sympy.I for symbol in found.free_symbols if symbol.name == "i"}
        found = found.xreplace(exact | named)
    return found


def _bits(formula: Any) -> float:
    """Return about how many bits the largest number has that evaluating a formula computes."""
    if formula.is_Rational:
        return float(max(int(formula.p).bit_length(), int(formula.q).bit_length()))
    inner = max(map(_bits, formula.args), default=12.0)
    if isinstance(formula, sympy.Pow):
        power = _bits(formula.exp)
        return max(inner, math.inf if power > 60 else max(_bits(formula.base), 1.0) * 2.0**power / 2)
    if isinstance(formula, sympy.factorial):
        return math.inf if _bits(formula.args[0]) > math.log2(_MOST_FACTORIAL) else inner
    return inner


def same(gold: Any, given: Any, decimal: tuple[str, int, int] | None) -> bool:
    """Return whether two parsed formulas are equal; `decimal`: value, places and side of one that is a decimal."""
    for formula in (gold, given):
        if isinstance(formula, sympy.Basic) and _bits(formula) > _MOST_BITS:
            return bool(gold == given)
    if isinstance(gold, Relational) or isinstance(given, Relational):
        return isinstance(gold, Relational) and isinstance(given, Relational) and _same_relation(gold, given)
    if isinstance(gold, sympy.Expr) and isinstance(given, sympy.Expr):
        return _same_expression(gold, given, decimal)
    return type(gold) is type(given) and bool(gold == given)


def _same_expression(gold: Any, given: Any, decimal: tuple[str, int, int] | None = None) -> bool:
    symbols = sorted(gold.free_symbols | given.free_symbols, key=str)
    if gold == given:
        return True
    if gold.atoms(AppliedUndef) or given.atoms(AppliedUndef) or len(symbols) > _MOST_SYMBOLS:
        return bool(sympy.expand(gold - given) == 0)
    if symbols:
        return bool(_ratio(gold, given, symbols) == 1)
    return _same_constant(gold.doit(), given.doit(), decimal)


def _same_constant(gold: Any, given: Any, decimal: tuple[str, int, int] | None) -> bool:
    """Exactly for rationals; other numbers by their ratio, at many digits."""
    if gold == given:
        return True
    if decimal is None and gold.is_Rational and given.is_Rational:
        return False
    if not (gold.is_finite is not False and given.is_finite is not False):
        return False
    values = [value.evalf(_DIGITS) for value in (gold, given)]
    if not all(value.is_number and value.is_finite for value in values):
        return False
    if decimal is not None:
        value, places, side = decimal
        return _is_cut_from(Fraction(value), places, (given, gold)[side])
    size = max(map(abs, values))
    if size < _CLOSE:  # zero, or too small to be told from it
        return bool(sympy.simplify(gold - given) == 0)
    return bool(abs(values[0] - values[1]) <= _CLOSE * size)


def _is_cut_from(decimal: Fraction, places: int, value: Any) -> bool:
    """Whether a decimal is a value rounded or cut to its places."""
    if not value.is_real:
        return False
    scaled = (value * 10**places).evalf(_DIGITS + places)
    nearest = {int(scaled), int(sympy.floor(scaled + sympy.Rational(1, 2)))}
    return decimal * 10**places in nearest


def _ratio(gold: Any, given: Any, symbols: list[Any]) -> Any:
    """Return what `gold` is times `given`, if that is one number wherever both are looked at; else None."""
    random, found = Random(0), None
    seen = 0
    for _ in range(_POINTS):
        point = {symbol: sympy.Rational(random.randint(-3000, 3000) or 1, 997) for symbol in symbols}
        first, second = (formula.xreplace(point).doit().evalf(_DIGITS) for formula in (gold, given))
        if not (first.is_number and second.is_number):
            return None
        if not (first.is_finite and second.is_finite):
            continue
        tiny = [abs(value) < sympy.Float("1e-40", 60) for value in (first, second)]
        if any(tiny):
            if not all(tiny):
                return None
            continue
        ratio = first / second
        if found is not None and abs(ratio - found) > _CLOSE * abs(found):
            return None
        found, seen = (ratio if found is None else found), seen + 1
        if seen == _NEEDED:
            return sympy.Integer(1) if abs(found - 1) <= _CLOSE else found
    if seen == 0 and sympy.simplify(gold - given) == 0:
        return sympy.Integer(1)
    return None


def _same_relation(gold: Any, given: Any) -> bool:
    """Whether two equations or inequalities differ by a factor only; sides may be swapped."""
    kinds = type(gold), type(given)
    left, right = gold.lhs - gold.rhs, given.lhs - given.rhs
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not symbols or len(symbols) > _MOST_SYMBOLS:
        return bool(gold == given)
    ratio = _ratio(left, right, symbols)
    if ratio is None or sympy.im(ratio) != 0:
        return False
    if kinds[0] is kinds[1] and kinds[0] not in _FLIPPED:
        return True
    return bool(kinds[0] is kinds[1] and ratio > 0) or bool(_FLIPPED.get(kinds[0]) is kinds[1] and ratio < 0)


def answer(request: dict[str, Any]) -> bool:
    """Return the verdict on one request: {gold, given, decimal}, or {reads} to ask whether a formula can be read."""
    if "reads" in request:
        parse(request["reads"])
        return True
    return same(parse(request["gold"]), parse(request["given"]), request.get("decimal"))


def main() -> None:
    """Answer requests until there are no more."""
    logging.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the parent closes the pipe
    for kind in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(kind, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.set_int_max_str_digits(0)
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, _WALL)
        try:
            verdict = answer(request)
        except Exception:  # the libraries raise anything; what they cannot read or compare is not equal
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(int(verdict), flush=True)


if __name__ == "__main__":
    main()
