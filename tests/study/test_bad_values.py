"""Values that no study can have are refused wherever they stand: numbers, names, paths, texts and types."""

import copy
import datetime
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlgen.errors import StudyError
from rlgen.study import parse_study
from rlgen.study.sections.common import LONGEST_NAME, OWN_ENDINGS
from tests.study.settings import GOOD, assert_refused, put, put_all, refusal


def numbers(settings: Any, path: str = "") -> Iterator[tuple[str, type]]:
    """Yield path and type of every number in settings."""
    entries = settings.items() if isinstance(settings, dict) else enumerate(settings)
    for key, value in entries:
        place = f"{path}.{key}" if path else str(key)
        if isinstance(value, (dict, list)):
            yield from numbers(value, place)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield place, type(value)


NUMBERS = dict(numbers(GOOD))
HUGE = [10**15, 10**30, 2**64, 10**5000]


def refused_at(path: str, value: Any) -> bool:
    """Whether a value is refused at a path, and not as something else that is wrong."""
    settings = copy.deepcopy(GOOD)
    put(path, value)(settings)
    with pytest.raises(StudyError) as caught:
        parse_study(settings)
    *parents, last = path.split(".")
    key = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in [*parents, last]).lstrip(".")
    return f"  {key}: " in str(caught.value)


@pytest.mark.parametrize("path", NUMBERS)
def test_infinities_and_nan_are_refused_in_every_number(path: str) -> None:
    assert all(refused_at(path, value) for value in (math.inf, -math.inf, math.nan, ".inf", "nan", "Infinity"))


@pytest.mark.parametrize("path", [path for path, kind in NUMBERS.items() if kind is int and "seed" not in path])
def test_huge_integers_are_refused_in_every_number(path: str) -> None:
    assert all(refused_at(path, value) for value in HUGE)


@pytest.mark.parametrize("path", NUMBERS)
def test_true_and_false_are_no_numbers(path: str) -> None:
    assert refused_at(path, True)
    assert refused_at(path, False)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 10**30])
def test_a_seed_is_a_number_of_63_bits(seed: int) -> None:
    assert_refused(put("seed", seed), "seed", "")
    assert parse_study({**GOOD, "seed": 2**63 - 1}).seed == 2**63 - 1


CROSSCODERS = GOOD["crosscoders"]
NAMED = {
    "study": put("study", "{}"),
    "arms[1].name": put("arms.1.name", "{}"),
    "tasks.unseen[0].name": put("tasks.unseen.0.name", "{}"),
}
NAMES = [
    *(f"min{ending}" for ending in OWN_ENDINGS),
    *("min.OLD", "min.Partial", "a.", "..", ".", ".hidden", "-rf", "_x", "a b", "a/b", "a\\b", "a{b}", "a@1", "a+b"),
    *("", " ", "a\n", "a\0", "é", "a=b", "~", "a:b", "*", "x" * (LONGEST_NAME + 1), "x" * 300, "\ud800"),
]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name[:20]) for name in NAMES])
def test_names_that_make_no_files_of_their_own_are_refused(name: str) -> None:
    assert_refused(put("study", name), "study", "")
    assert_refused(put("arms.1.name", name), "arms[1].name", "")
    assert_refused(put("tasks.unseen.0.name", name), "tasks.unseen[0].name", "")
    changed = put("crosscoders", {**CROSSCODERS, name: CROSSCODERS["base-rl"]})
    assert "crosscoders" in refusal(changed)


@pytest.mark.parametrize("name", ["a", "A1", "1", "a.b", "a-b_c.d", "old", "partial", "x" * LONGEST_NAME, "a.older"])
def test_other_names_are_taken(name: str) -> None:
    assert parse_study({**GOOD, "study": name}).study == name


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"arms.0.name": "RL", "crosscoders": {"a": CROSSCODERS["base-rl"]}}, "arms"),
        ({"arms.0.name": "Base", "crosscoders": {"a": CROSSCODERS["base-rl"]}}, "arms"),
        ({"tasks.unseen.0": {"name": "MAX", "source": "miniature", "task": "max"}}, "tasks"),
        ({"crosscoders": {**CROSSCODERS, "Base-RL": CROSSCODERS["base-rl"]}}, "crosscoders"),
    ],
)
def test_names_that_differ_in_case_alone_are_refused(changes: dict[str, Any], key: str) -> None:
    assert_refused(put_all(changes), key, "rename one of them")


PATHS = [
    "",
    " ",
    "out ",
    "\tout",
    "out/{x}",
    "out}",
    "o\nut",
    "o\0ut",
    "o\x1but",
    "x" * 300,
    "a/" * 2000,
    "~nobody-here/x",
]


@pytest.mark.parametrize("path", PATHS, ids=[ascii(path[:20]) for path in PATHS])
def test_paths_that_snakemake_or_a_file_system_cannot_take_are_refused(path: str) -> None:
    assert_refused(put("results", path), "results", "")
    rows = {"source": "jsonl", "path": path}
    assert_refused(put("problems.sources.0", rows), "problems.sources[0].path", "")
    assert_refused(put("corpus.sources.0", rows), "corpus.sources[0].path", "")
    task = {"name": "arc", **rows, "format": "generate"}
    assert_refused(put("tasks.unseen.0", task), "tasks.unseen[0].path", "")
    arm = {"name": "theirs", "method": "existing", "path": path}
    assert_refused(lambda settings: settings["arms"].append(arm), "arms[2].path", "")


def test_a_file_in_the_place_of_the_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert_refused(put("results", str(place)), "results", "take another folder")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mini").write_text("")
    assert_refused(put("results", str(tmp_path / "results")), "results", "take another folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert_refused(put("results", str(tmp_path / "loop")), "results", "take a")


def test_home_is_found_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_study({**GOOD, "results": "~/out put"}).results == tmp_path / "out put"


TEXTS = {
    "NUL": "a\0b",
    "escape": "a\x1b[31mb",
    "delete": "a\x7f",
    "C1": "a\x85b",
    "surrogate": "a\udc80",
    "endless": "a" * 10**6,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_that_no_page_or_terminal_can_show_are_refused(kind: str) -> None:
    for path, key in (
        ("report.title", "report.title"),
        ("report.note", "report.note"),
        ("problems.prompt", "problems.prompt"),
    ):
        found = refusal(put(path, "{problem}" + TEXTS[kind]))
        assert f"  {key}: " in found
        assert found.replace("\n", "").isprintable()
        assert len(found) < 1000
    key = refusal(put(f"resources.{TEXTS[kind].replace('.', '')}", {}))
    assert key.replace("\n", "").isprintable()


def test_a_page_may_have_any_usual_text() -> None:
    title = "Größe → ∞\tΔ\nאב 你好 🙂"
    assert parse_study({**GOOD, "report": {"title": title}}).report.title == title


class Odd:
    """A value that no file can hold."""


TYPES = [datetime.date(2024, 1, 1), b"bytes", {1, 2}, 1j, Odd(), object]


@pytest.mark.parametrize("value", TYPES, ids=[type(value).__name__ for value in TYPES])
def test_values_of_other_types_are_refused(value: Any) -> None:
    for path in ("seed", "report.title", "arms.0.lr"):
        assert "a value of type" in refusal(put(path, value))


@pytest.mark.parametrize("key", [1, None, True, 1.5, datetime.date(2024, 1, 1), (1, 2)], ids=str)
def test_keys_of_other_types_are_refused(key: Any) -> None:
    found = refusal(lambda settings: settings["resources"].update({key: {}}))
    assert "  resources: the key " in found
    assert "put the key in quotes" in found


def test_endless_settings_are_refused() -> None:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    assert "levels of nesting" in refusal(put("resources", loop))
    wide = [[0] * 1000] * 1000
    assert "100,000 values" in refusal(put("localisation.compare", wide))


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("activations.parts", 1001, "activations.parts"),
        ("crosscoders.base-rl.seeds", list(range(20_000)), "crosscoders.base-rl.grid"),
        (
            "crosscoders.base-rl.grid",
            {"k": list(range(1, 99)), "l1": list(range(99)), "l0_weight": list(range(99))},
            "crosscoders.base-rl.grid",
        ),
    ],
)
def test_more_jobs_than_can_be_are_refused(path: str, value: Any, key: str) -> None:
    assert_refused(put(path, value), key, "")


def test_fits_with_names_longer_than_file_names_are_refused() -> None:
    grid = {
        "l1": [1 / 3],
        "l0_weight": [1 / 3],
        "delta_weight": [1 / 3],
        "k": [8],
        "sparsity": ["batch_topk", "jumprelu"],
    }
    name = "x" * LONGEST_NAME
    entry = {**CROSSCODERS["base-rl"], "grid": grid, "seeds": [2**62]}
    crosscoders = {**CROSSCODERS, name: entry}
    assert_refused(put("crosscoders", crosscoders), f"crosscoders.{name}", "shorten its name")


def test_many_wrong_settings_make_a_short_message() -> None:
    found = refusal(put_all(dict.fromkeys(NUMBERS, "x" * 500)))
    assert "and " in found.splitlines()[-1]
    assert len(found) < 10_000
