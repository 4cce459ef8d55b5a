"""Effects, intervals and p, from answers that are known."""

import numpy as np
import pandas as pd
import pytest

from rlgen.interventions.effects import block, measure, sweep

ITEMS = 40


def make_items(effect: float = 0.5, draws: tuple[float, ...] = (0.0,) * 19) -> pd.DataFrame:
    """Base has none of task `a` right and half of `b`; the arm has all; a condition gets its share more of both."""
    shares = {("baseline", 0): 0.0, ("effect", 0): effect, ("encode_decode", 0): 0.1, ("ceiling", 0): 0.5}
    shares |= {("matched_random", d): share for d, share in enumerate(draws)}
    shares |= {("random_direction", d): 0.25 for d in range(4)} | {("donor", 0): 1.0}
    rows = []
    for (condition, draw), share in shares.items():
        for task, already in (("a", 0), ("b", ITEMS // 2)):
            count = ITEMS if condition == "donor" else already + round(share * ITEMS)
            rows += [
                {"condition": condition, "draw": draw, "task": task, "item": f"{i:03d}", "sample": 0}
                | {"right": i < count, "answer": str(i < count), "response": "x" * (1 + (condition == "effect"))}
                for i in range(ITEMS)
            ]
    return pd.DataFrame(rows)


def test_effects_are_changes_against_the_unedited_model() -> None:
    measured = measure(make_items(), resamples=500, seed=0)
    found = block(list(measured.values()), "amplify")
    assert found is not None
    assert found["baseline"] == pytest.approx(0.25)
    assert found["effect"] == pytest.approx(0.5)
    assert found["encode_decode"] == pytest.approx(0.1)
    assert found["ceiling"] == pytest.approx(0.5)
    assert found["n"] == 2 * ITEMS
    assert found["random_direction"]["mean"] == pytest.approx(0.25)
    assert found["matched_random"]["p"] == pytest.approx(1 / 20)
    assert found["low"] < 0.5 < found["high"]
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * np.sqrt(0.25 / (2 * ITEMS)), rel=0.2)


def test_the_subset_starts_at_nothing_by_construction() -> None:
    measured = measure(make_items(effect=0.25), resamples=100, seed=0)
    subset = block([measured["b"]], "amplify")["subset"]  # type: ignore[index]
    assert subset["baseline"] == 0
    assert subset["donor"] == 1
    assert subset["n"] == ITEMS // 2
    assert subset["effect"] == pytest.approx(0.5)  # twice the full set's


def test_p_looks_in_the_expected_direction() -> None:
    draws = tuple(share for share in (0.0, 0.5) for _ in range(10))
    measured = list(measure(make_items(draws=draws), resamples=10, seed=0).values())
    assert block(measured, "amplify")["matched_random"]["p"] == pytest.approx(11 / 21)  # type: ignore[index]
    assert block(measured, "ablate")["matched_random"]["p"] == 1.0  # type: ignore[index]


def test_no_subset_is_none() -> None:
    items = make_items()
    items.loc[items["condition"] == "donor", "right"] = False
    found = block(list(measure(items, resamples=10, seed=0).values()), "amplify")
    assert found is not None
    assert found["subset"] is None
    assert block([], "amplify") is None


def test_an_effect_is_told_as_a_share_of_the_ceiling_and_in_deviations_of_the_draws() -> None:
    draws = tuple(share for share in (0.0, 0.25) for _ in range(10))
    found = block(list(measure(make_items(draws=draws), resamples=10, seed=0).values()), "amplify")
    assert found is not None
    assert found["of_ceiling"] == pytest.approx(1.0)
    assert found["matched_random"]["z"] == pytest.approx((0.5 - 0.125) / np.std(draws, ddof=1))
    against = block(list(measure(make_items(), resamples=10, seed=0).values()), "ablate")
    assert against is not None
    assert against["of_ceiling"] is None  # the ceiling lies on the other side


def test_a_sweep_gives_an_effect_for_every_strength() -> None:
    items = make_items()
    further = items[items["condition"] == "effect"].assign(condition="sweep", draw=0)
    both = pd.concat([items, further, further.assign(draw=1, right=False)], ignore_index=True)
    found = sweep(list(measure(both, resamples=50, seed=0).values()), [2.0, 4.0])
    assert [row["alpha"] for row in found] == [2.0, 4.0]
    assert [row["effect"] for row in found] == pytest.approx([0.5, -0.25])
    assert found[0]["low"] < 0.5 < found[0]["high"]
