"""The corpus: packing, shares, marks and determinism."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import rlgen.data.corpus as corpus_module
from rlgen.data.corpus import Row, _pack, make_corpus, read_corpus
from rlgen.data.miniature import build_tokenizer
from rlgen.data.problems import make_problems
from rlgen.errors import StudyError
from rlgen.stage import Progress
from rlgen.study.sections import (
    Corpus,
    ExistingBase,
    HubText,
    JsonlText,
    MiniatureProblems,
    MiniatureText,
    PretrainedBase,
    Problems,
    ProblemText,
    Text,
)
from rlgen.study.stages import CorpusSettings, ProblemsSettings
from tests.data.test_problems import jsonl

TOKENIZER = build_tokenizer()


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """A base's tokenizer and some problems."""
    TOKENIZER.save_pretrained(tmp_path / "base")
    problems = Problems(sources=[MiniatureProblems(source="miniature", items=50)])
    make_problems(ProblemsSettings(problems=problems), out=tmp_path / "problems")
    return {"base": tmp_path / "base", "problems": tmp_path / "problems"}


def settings(sources: list[Text], tokens: int = 20_000, seed: int = 0) -> CorpusSettings:
    corpus = Corpus(tokens=tokens, row_length=128, sources=sources)
    return CorpusSettings(seed=seed, corpus=corpus, base=PretrainedBase(method="pretrain"))


def test_rows_are_whole_marked_documents(folders: dict[str, Path], tmp_path: Path) -> None:
    make_corpus(settings([MiniatureText(source="miniature")]), out=tmp_path / "corpus", **folders)
    about, tokens, documents, mask = read_corpus(tmp_path / "corpus")
    assert tokens.shape == documents.shape == mask.shape == (about["rows"], 128) == (20_000 // 128, 128)
    assert (mask == ((documents >= 0) & (tokens != TOKENIZER.bos_token_id))).all()
    assert (tokens[documents < 0] == TOKENIZER.pad_token_id).all()
    assert about["kept_tokens"] == mask.sum() > 0.7 * mask.size
    for document in range(documents.max()):
        ids = tokens[documents == document]
        assert ids[0] == TOKENIZER.bos_token_id
        assert ids[-1] == TOKENIZER.eos_token_id
        assert TOKENIZER.decode(ids[1:-1]).startswith("Q ")
        assert len(np.unique(np.nonzero(documents == document)[0])) == 1, "a short document is never cut"


def test_shares_follow_the_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    text = jsonl(tmp_path / "text.jsonl", *({"text": "once upon a time. " * n} for n in range(1, 6)))
    sources: list[Text] = [
        MiniatureText(source="miniature", weight=2),
        ProblemText(source="problems", weight=1),
        JsonlText(source="jsonl", path=text, weight=1),
    ]
    make_corpus(settings(sources), out=tmp_path / "corpus", **folders)
    about, *_ = read_corpus(tmp_path / "corpus")
    counts = np.array([source["tokens"] for source in about["sources"]])
    assert counts / counts.sum() == pytest.approx([0.5, 0.25, 0.25], abs=0.02)


def test_same_seed_same_bytes(folders: dict[str, Path], tmp_path: Path) -> None:
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_corpus(settings([MiniatureText(source="miniature")], seed=seed), out=tmp_path / name, **folders)
        digests.append(read_corpus(tmp_path / name)[0]["digest"])
    assert digests[0] == digests[1] != digests[2]


def test_what_cannot_be_a_corpus(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"corpus\.tokens: 100 is less than one row of 128"):
        make_corpus(settings([MiniatureText(source="miniature")], tokens=100), out=tmp_path / "a", **folders)
    empty = jsonl(tmp_path / "empty.jsonl")
    with pytest.raises(StudyError, match=r"corpus\.sources\.0\.path: .*empty\.jsonl: no text there"):
        make_corpus(settings([JsonlText(source="jsonl", path=empty)]), out=tmp_path / "b", **folders)
    existing = settings([MiniatureText(source="miniature")]).model_copy(
        update={"base": ExistingBase(method="existing", path="x")}
    )
    with pytest.raises(StudyError, match=r"corpus\.sources\.0: `miniature` is the text of a base"):
        make_corpus(existing, out=tmp_path / "c", **folders)


@pytest.mark.parametrize("stops_at", [3, 90, 155])
def test_goes_on_where_it_was_killed(
    stops_at: int, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = jsonl(tmp_path / "text.jsonl", *({"text": "once upon a time. " * n} for n in range(1, 30)))
    sources: list[Text] = [MiniatureText(source="miniature"), JsonlText(source="jsonl", path=text)]
    make_corpus(settings(sources), out=tmp_path / "undisturbed", **folders)

    def killed(_: Progress, done: int) -> None:
        if done >= stops_at:
            raise KeyboardInterrupt

    taken: list[NDArray[np.int32]] = []

    def counted(streams: list[Any]) -> Iterator[NDArray[np.int32]]:
        for ids in interleave(streams):
            taken.append(ids)
            yield ids

    interleave = corpus_module.interleave
    monkeypatch.setattr(corpus_module, "_SAVE_EVERY", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "to", killed)
        with pytest.raises(KeyboardInterrupt):
            make_corpus(settings(sources), out=tmp_path / "killed", **folders)
    monkeypatch.setattr(corpus_module, "interleave", counted)
    make_corpus(settings(sources), out=tmp_path / "killed", **folders)
    about, *_ = read_corpus(tmp_path / "killed")
    assert about == read_corpus(tmp_path / "undisturbed")[0]
    assert sum(map(len, taken)) <= (about["rows"] - stops_at + 2) * 128 + max(map(len, taken))


def test_killed_after_its_last_row_it_counts_no_document_twice(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[Text] = [MiniatureText(source="miniature")]
    make_corpus(settings(sources), out=tmp_path / "undisturbed", **folders)

    def killed(_: Path) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "_digest", killed)
        with pytest.raises(KeyboardInterrupt):
            make_corpus(settings(sources), out=tmp_path / "killed", **folders)
    make_corpus(settings(sources), out=tmp_path / "killed", **folders)
    assert read_corpus(tmp_path / "killed")[0] == read_corpus(tmp_path / "undisturbed")[0]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=40), st.integers(8, 64))
def test_packing_loses_and_repeats_nothing(lengths: list[int], row_length: int) -> None:
    ends = np.cumsum(lengths)
    rows: list[Row] = [[]]
    for number, (end, count) in enumerate(zip(ends, lengths, strict=True)):
        rows += _pack(rows.pop(), number, np.arange(end - count, end, dtype=np.int32), row_length)
    assert all(0 < sum(len(piece) for _, piece in row) <= row_length for row in rows[:-1])
    seen = np.concatenate([piece for row in rows for _, piece in row])
    assert (seen == np.arange(ends[-1])).all()


def test_real_text(real_model: Path, real_data: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    sources: list[Text] = [
        JsonlText(source="jsonl", path=real_data / "tinystories_sample.jsonl", weight=3),
        JsonlText(source="jsonl", path=real_data / "redpajama_sample.jsonl", weight=1),
    ]
    base = ExistingBase(method="existing", path=str(real_model))
    wanted = CorpusSettings(corpus=Corpus(tokens=65_536, row_length=256, sources=sources), base=base)
    make_corpus(wanted, base=real_model, problems=folders["problems"], out=tmp_path / "corpus")
    about, tokens, _, mask = read_corpus(tmp_path / "corpus")
    assert tokens.max() < about["vocabulary"] == 512
    assert mask.mean() > 0.85


def test_a_data_set_is_streamed(folders: dict[str, Path], tmp_path: Path) -> None:
    """From a folder of data files; on the hub, the same call takes an id."""
    (tmp_path / "set").mkdir()
    rows = [{"body": f"Q max {n}\nA {n}"} for n in range(300)]
    for name, part in (("a", rows[:150]), ("b", rows[150:])):
        jsonl(tmp_path / "set" / f"{name}.jsonl", *part)
    hub = HubText(source="hub", path=str(tmp_path / "set"), field="body")
    plain = JsonlText(source="jsonl", path=jsonl(tmp_path / "all.jsonl", *rows), field="body")
    for name, source in (("hub", hub), ("plain", plain)):
        make_corpus(settings([source], tokens=2000), out=tmp_path / name, **folders)
    assert read_corpus(tmp_path / "hub")[0]["digest"] == read_corpus(tmp_path / "plain")[0]["digest"]
    for change, message in (
        ({"field": "text"}, "row 1: no text in field `text`; it has body"),
        ({"split": "test"}, "cannot be read"),
        ({"path": str(tmp_path / "nothing")}, "nothing cannot be found on the hub"),
    ):
        with pytest.raises(StudyError, match=rf"corpus\.sources\.0: .*{message}"):
            make_corpus(settings([hub.model_copy(update=change)]), out=tmp_path / "wrong", **folders)


def test_a_resumed_corpus_goes_on_with_the_commit_that_it_was_begun_with(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, commits = [], iter(["first", "second"])

    class Api:
        def dataset_info(self, path: str, revision: str | None) -> Any:
            return type("Info", (), {"sha": next(commits)})

    def load_dataset(*_: Any, **given: Any) -> list[dict[str, str]]:
        read.append(given["revision"])
        return [{"text": f"Q max {n}\nA {n}"} for n in range(300)]

    def killed(_: Progress, done: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    wanted = settings([HubText(source="hub", path="owner/texts", revision="main")], tokens=2000)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "to", killed)
        with pytest.raises(KeyboardInterrupt):
            make_corpus(wanted, out=tmp_path / "corpus", **folders)
    make_corpus(wanted, out=tmp_path / "corpus", **folders)
    assert set(read) == {"first"}
    (source,) = read_corpus(tmp_path / "corpus")[0]["sources"]
    assert source["revision"] == "first"
