"""A crosscoder's seeds and grid, spelt out."""

from rlgen.study.sections import CrosscoderEntry
from rlgen.study.variants import expand, replicates


def entry(**settings: object) -> CrosscoderEntry:
    return CrosscoderEntry.model_validate({"models": ["base", "rl"], "k": 16, **settings})


def test_an_entry_without_variants_is_one_fit() -> None:
    found = expand("base-rl", entry(), layer=3)
    assert list(found) == ["base-rl"]
    assert found["base-rl"].model_dump(exclude_defaults=True) == {"models": ["base", "rl"], "k": 16}


def test_every_combination_is_one_fit_named_by_what_differs() -> None:
    found = expand("base-rl", entry(seeds=[1], grid={"k": [8], "l1": [0.5]}), layer=3)
    assert list(found) == [
        *("base-rl", "base-rl.seed=1", "base-rl.l1=0.5", "base-rl.l1=0.5.seed=1"),
        *("base-rl.k=8", "base-rl.k=8.seed=1", "base-rl.k=8.l1=0.5", "base-rl.k=8.l1=0.5.seed=1"),
    ]
    last = found["base-rl.k=8.l1=0.5.seed=1"]
    assert (last.k, last.l1, last.seed) == (8, 0.5, 1)


def test_its_own_values_make_no_second_fit() -> None:
    assert list(expand("a", entry(seeds=[0, 0], grid={"k": [16], "layer": [3]}), layer=3)) == ["a"]
    assert list(expand("a", entry(grid={"layer": [3, 4, 4]}), layer=3)) == ["a", "a.layer=4"]


def test_the_own_fit_is_as_without_variants() -> None:
    assert expand("a", entry(seeds=[1], grid={"k": [8]}), layer=3)["a"] == expand("a", entry(), layer=3)["a"]


def test_replicates_differ_in_the_seed_alone() -> None:
    found = expand("a", entry(seeds=[1, 2], grid={"k": [8]}), layer=3)
    assert replicates(found)["a"] == ["a.seed=1", "a.seed=2"]
    assert replicates(found)["a.k=8.seed=1"] == ["a.k=8", "a.k=8.seed=2"]
    assert replicates(expand("a", entry(), layer=3)) == {"a": []}
