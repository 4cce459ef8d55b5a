"""A study's file that is not plain YAML in UTF-8 is refused with one message, by line and key. No case takes long."""

import os
from pathlib import Path

import pytest
import yaml

from rlgen.errors import StudyError
from rlgen.study import load_study, read_document
from tests.study.settings import GOOD, ROOT

LAUGHS = "a: &a [1, 1]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
)
SMILES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{x: *{a}, y: *{a}, z: *{a}}}\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
BAD = {
    "Latin-1": ("study: é".encode("latin1"), ["not UTF-8", "0xe9", "line 1", "save it as UTF-8"]),
    "Windows' quotes": ("a: 1\nb: “x”".encode("cp1252"), ["not UTF-8", "line 2"]),
    "UTF-16": ("study: x".encode("utf-16"), ["is UTF-16"]),
    "UTF-16 without a mark": ("study: x\n".encode("utf-16-le"), ["looks like UTF-16", "line 1"]),
    "UTF-32": ("study: x".encode("utf-32"), ["is UTF-32"]),
    "gzip": (b"\x1f\x8b\x08\x00", ["is gzip", "unpack"]),
    "a NUL byte": (b"study: x\nseed: \0\n", ["zero byte in line 2"]),
    "any bytes": (bytes(range(254, 0, -1)), ["not UTF-8", "line"]),
    "a control character": (b"study: x\nseed: \x07\n", ["line 2", "not allowed in YAML"]),
    "nothing": (b"", ["is empty"]),
    "comments alone": (b"# study: x\n\n", ["is empty"]),
    "null": (b"~\n", ["is empty"]),
    "a text": (b"study\n", ["holds str", "mapping of sections"]),
    "a list": (b"- study: x\n", ["holds list"]),
    "a key given twice": (b"study: x\nseed: 1\nseed: 2\n", ["seed: given twice, in lines 2 and 3", "keep one"]),
    "a nested key given twice": (
        b"a:\n  b:\n    - {c: 1, d: 2}\n    - {c: 1, c: 2}\n",
        ["a.b[1].c: given twice, in line 4"],
    ),
    "a quoted key given twice": (b"a: 1\n'a': 2\n", ["a: given twice"]),
    "two keys given twice": (b"a: 1\na: 2\nb: {c: 1, c: 1}\n", ["2 settings are wrong", "b.c: given twice"]),
    "two merges": (b"x: &x {y: 1}\na: {<<: *x, <<: *x}\n", ["a.<<: given twice"]),
    "a merge of a number": (b"x: &x 1\na: {<<: *x}\n", ["a.<<: brings in what is no mapping (line 2)"]),
    "a date": (b"study: 2024-01-01\n", ["study: `2024-01-01` is read as a date (line 1)", "quotes"]),
    "a time stamp": (b"a:\n  - 2001-12-14t21:59:43.10-05:00\n", ["a[0]: ", "date (line 2)"]),
    "a date as a key": (b"a: {2024-01-01: 1}\n", ["a.2024-01-01: ", "put the key in quotes"]),
    "base 60": (b"a: 1:30\n", ["a: `1:30` is read as a number to the base 60 (line 1)"]),
    "base 60 with a fraction": (b"a: 190:20:30.15\n", ["base 60"]),
    "octal": (b"a: 010\n", ["a: `010` is read as an octal number (line 1)", "leading zero"]),
    "octal with a sign": (b"a: -07\n", ["octal"]),
    "on as a key": (b"on: 1\n", ["on: the key is read as true", "put the key in quotes"]),
    "no as a key": (b"a: {no: 1}\n", ["a.no: the key is read as false"]),
    "a number as a key": (b"a: {7: 1}\n", ["a.7: the key is read as the number 7"]),
    "null as a key": (b"a: {~: 1}\n", ["a.~: the key is read as nothing"]),
    "a mapping as a key": (b"? {a: b}\n: 1\n", ["a mapping stands where a key is expected, in line 1"]),
    "a list as a key": (b"a:\n  [b, c]: 1\n", ["a: a list stands where a key is expected, in line 2"]),
    "an alias of a list as a key": (b"a: &x [1]\n*x : 2\n", ["where a key is expected, in line 2"]),
    "an alias within itself": (b"a: &x\n  b: *x\n", ["a.b: `*x` in line 2 stands within"]),
    "an alias in its own list": (b"a: &x [1, *x]\n", ["a[1]: `*x` in line 1"]),
    "an alias of nothing": (b"a: *x\n", ["a: `*x` in line 1 stands for nothing"]),
    "a billion laughs": (LAUGHS.encode() + b"l: [" + b"*k, " * 99 + b"]\n", ["more than 100,000 values"]),
    "a billion smiles": (SMILES.encode(), ["more than 100,000 values"]),
    "merged laughs": (SMILES.encode() + b"m: {<<: [" + b"*l, " * 9 + b"]}\n", ["more than 100,000 values"]),
    "open brackets": (b"a: " + b"[" * 100_000, ["more than 30 levels of nesting in line 1"]),
    "open braces": (b"{a: " * 100_000, ["more than 30 levels"]),
    "nested lists": (b"- " * 50_000, ["more than 30 levels"]),
    "steps": ("\n".join(" " * i + "a:" for i in range(500)).encode(), ["more than 30 levels of nesting in line 31"]),
    "too many bytes": (b"# " + b"x" * 2_000_000, ["2,000,002 bytes"]),
    "a tab": (b"a:\n\tb: 1\n", ["line 2", "not valid YAML", "spaces, not with tabs"]),
    "two documents": (b"a: 1\n---\nb: 2\n", ["a second document begins in line 2"]),
    "a tag that runs code": (b"a: !!python/object/apply:os.system [true]\n", ["a: has the tag `!!python/object/apply"]),
    "a tag of a scalar": (b"a: !!python/name:os.system x\n", ["a: has the tag `!!python/name"]),
    "a tag of its own": (b"a: !env HOME\n", ["a: has the tag `!env` (line 1)", "remove the tag"]),
    "bytes": (b"a: !!binary aGVsbG8=\n", ["a: has the tag `!!binary`"]),
    "a set": (b"a: !!set {b, c}\n", ["a: has the tag `!!set`"]),
    "a false tag": (b"a: !!int many\n", ["a: `many` is no value of the type `int`"]),
    "5,000 digits": (b"a: " + b"9" * 5000 + b"\n", ["a: a number of 5000 digits"]),
    "5,000 decimals": (b"a: 0." + b"9" * 5000 + b"\n", ["a: a number of 5002 digits"]),
    "an open quote": (b'a: "b\n', ["not valid YAML", "line"]),
    "two colons": (b"a: b: c\n", ["line 1, column 5", "not valid YAML"]),
    "half of a surrogate pair": (rb'a: "\ud800"', ["not valid YAML", "line 1"]),
    "an anchor alone": (b"a: &x\nb: *y\n", ["b: `*y` in line 2"]),
    "another version of YAML": (b"%YAML 3.0\n---\na: 1\n", ["not valid YAML"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_not_plain_yaml_is_refused(tmp_path: Path, kind: str) -> None:
    content, parts = BAD[kind]
    file = tmp_path / "study.yaml"
    file.write_bytes(content)
    with pytest.raises(StudyError) as caught:
        read_document(file)
    said = str(caught.value)
    assert str(file) in said
    assert [part for part in parts if part not in said] == []
    assert said.replace("\n", "").isprintable()
    assert len(said) < 2000


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, part in ((tmp_path, "is a folder"), (pipe, "not a regular file"), (Path("/dev/zero"), "not a regular")):
        with pytest.raises(StudyError, match=part):
            read_document(path)
    for name in ("none", "a\0b", "x" * 300, "study.yaml/x"):
        with pytest.raises(StudyError, match=r"no such file|cannot be read"):
            read_document(tmp_path / name)


@pytest.mark.parametrize(
    "text", ["\ufeffstudy: x\n", "study: x\r\n", "---\nstudy: x\n...\n", '{"study": "x"}', "study: !!str x"]
)
def test_usual_text_is_read(tmp_path: Path, text: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(text.encode())
    assert read_document(file).values == {"study": "x"}


def test_studies_are_read_as_yaml_reads_them() -> None:
    files = [ROOT / "config.yaml", *ROOT.glob("workflow/studies/**/*.yaml"), *ROOT.glob("tests/studies/*.yaml")]
    assert len(files) > 5
    for file in files:
        assert read_document(file).values == yaml.safe_load(file.read_text()), file


def test_own_keys_come_before_merged_ones_and_early_merges_before_late(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {x: 2, y: 2, z: 2}\nc: {<<: [*a, *b], y: 3}\nd: {y: 4, <<: *b}\ne: {'<<': 1}\n"
    file = tmp_path / "study.yaml"
    file.write_text(text)
    found = read_document(file).values
    assert found["c"] == {"x": 1, "y": 3, "z": 2}
    assert found["d"] == {"x": 2, "y": 4, "z": 2}
    assert found["e"] == {"<<": 1}
    assert {key: found[key] for key in "abcd"} == {key: yaml.safe_load(text)[key] for key in "abcd"}


def test_a_wrong_setting_is_told_with_its_line(tmp_path: Path) -> None:
    lines = (ROOT / "config.yaml").read_text().splitlines()
    number = lines.index("seed: 0                # every stage's random numbers follow from it")
    lines[number] = "seed: many"
    file = tmp_path / "study.yaml"
    file.write_text("\n".join(lines))
    with pytest.raises(StudyError, match=rf"  seed: given 'many' \(line {number + 1}\)"):
        load_study(file)


@pytest.mark.parametrize(
    ("key", "text", "remedy"),
    [
        ("problems.sources[0].items", "1e3", "write 1000"),
        ("problems.sources[0].items", "1,000", "write 1000"),
        ("problems.sources[0].items", "many", "valid integer"),
        ("study", "2024", "put it in quotes"),
    ],
)
def test_what_yaml_reads_otherwise_than_it_looks_is_explained(tmp_path: Path, key: str, text: str, remedy: str) -> None:
    file = tmp_path / "study.yaml"
    settings = yaml.safe_dump(GOOD)
    changed = (
        settings.replace("items: 640", f"items: {text}")
        if "items" in key
        else settings.replace("study: mini", f"study: {text}")
    )
    assert changed != settings
    file.write_text(changed)
    with pytest.raises(StudyError) as caught:
        load_study(file)
    assert f"  {key}: given " in str(caught.value)
    assert remedy in str(caught.value)


def test_a_number_with_an_exponent_and_no_point_is_that_number(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(GOOD).replace("lr: 0.0004", "lr: 4e-4"))
    assert load_study(file) == load_study(ROOT / "config.yaml")
