"""Dumping: the activations that the model has, on the tokens that count, the same bytes whatever interrupts it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from rlgen.activations.dump import dump
from rlgen.activations.store import StoreReader
from rlgen.activations.writer import StoreWriter
from rlgen.data.corpus import DOCUMENTS, MASK, TOKENS, VOCABULARY
from rlgen.data.miniature import build_tokenizer
from rlgen.errors import StudyError
from rlgen.models import residuals
from rlgen.stage import write_json
from rlgen.study.sections import Activations
from rlgen.study.stages import DumpSettings
from tests.data.corpora import write_corpus

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module", params=[Qwen3Config, LlamaConfig])
def model(request: Any, tmp_path_factory: Any) -> Path:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("models") / "base"
    AutoModelForCausalLM.from_config(request.param(**SHAPE)).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    tokens = random.integers(3, 40, (23, 16)).astype(np.int32)
    mask = random.random(tokens.shape) < 0.9
    documents = np.arange(tokens.size, dtype=np.int32).reshape(tokens.shape) // 30
    return write_corpus(folder, tokens, documents, mask)


def settings(part: int = 0, tokens: int | None = None, **change: Any) -> DumpSettings:
    chosen = {"layers": [1, 2], "dtype": "float32", "batch_rows": 3, "chunk_tokens": 16, "shard_tokens": 64}
    return DumpSettings(activations=Activations(**chosen | change), part=part, tokens=tokens)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def hidden_states(model: Path, corpus: Path) -> np.ndarray:
    network = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.from_numpy(np.load(corpus / "tokens.npy").astype(np.int64))
    with torch.no_grad():
        found = network(input_ids=ids, output_hidden_states=True).hidden_states
    kept = np.load(corpus / "mask.npy")
    return torch.stack([found[1], found[2]], dim=2).numpy()[kept]


def test_activations_are_the_models(model: Path, corpus: Path, tmp_path: Path) -> None:
    dump(settings(), model=model, corpus=corpus, out=tmp_path / "part-000.zarr")
    reader = StoreReader([tmp_path / "part-000.zarr"])
    expected = hidden_states(model, corpus)
    kept = np.load(corpus / "mask.npy")
    assert reader.model == "base"
    order = np.argsort(reader.positions)
    assert np.array_equal(reader.positions[order], np.flatnonzero(kept))
    assert np.array_equal(reader.tokens[order], np.load(corpus / "tokens.npy")[kept])
    assert np.array_equal(reader.documents[order], np.load(corpus / "documents.npy")[kept])
    for index, layer in enumerate((1, 2)):
        found = reader.read(0, reader.tokens_total, layer)[order]
        np.testing.assert_allclose(found, expected[:, index], atol=1e-5)
        np.testing.assert_allclose(reader.norms(layer)[order], np.linalg.norm(found, axis=-1), rtol=1e-5)
    assert reader.attributes.statistics is not None
    np.testing.assert_allclose(reader.attributes.statistics.sum, expected.sum(axis=0), atol=1e-3)


def test_separate_documents_are_read_each_by_itself(model: Path, corpus: Path, tmp_path: Path) -> None:
    tokens, documents, mask = (np.load(corpus / name) for name in (TOKENS, DOCUMENTS, MASK))
    write_corpus(tmp_path / "corpus", tokens, documents, mask, separate=True)
    dump(settings(), model=model, corpus=tmp_path / "corpus", out=tmp_path / "part-000.zarr")
    reader = StoreReader([tmp_path / "part-000.zarr"])
    network = AutoModelForCausalLM.from_pretrained(model)
    expected = []
    for row, numbers, kept in zip(tokens, documents, mask, strict=True):
        for number in np.unique(numbers):
            alone = torch.from_numpy(row[numbers == number].astype(np.int64))[None]
            with torch.no_grad():
                found = network(input_ids=alone, output_hidden_states=True).hidden_states[1][0]
            expected.append(found.numpy()[kept[numbers == number]])
    found = reader.read(0, reader.tokens_total, 1)[np.argsort(reader.positions)]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)


def test_bfloat16_is_stored_as_its_bits(model: Path, corpus: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        dump(settings(dtype=dtype), model=model, corpus=corpus, out=tmp_path / dtype)
    exact, rounded = StoreReader([tmp_path / "float32"]), StoreReader([tmp_path / "bfloat16"])
    expected = torch.from_numpy(exact.read(0, exact.tokens_total, 2)).bfloat16()
    assert torch.equal(torch.from_numpy(rounded.read(0, rounded.tokens_total, 2)), expected.float())
    assert rounded.read_stored(0, 5, 2).dtype == np.uint16
    np.testing.assert_allclose(rounded.norms(2), expected.float().norm(dim=-1).numpy(), rtol=1e-6)


def test_parts_make_up_the_whole_and_a_limit_takes_the_first(model: Path, corpus: Path, tmp_path: Path) -> None:
    dump(settings(), model=model, corpus=corpus, out=tmp_path / "whole")
    for part in range(3):
        dump(settings(part, parts=3), model=model, corpus=corpus, out=tmp_path / str(part))
    dump(settings(tokens=100), model=model, corpus=corpus, out=tmp_path / "limited")
    whole, limited = StoreReader([tmp_path / "whole"]), StoreReader([tmp_path / "limited"])
    parts = StoreReader([tmp_path / str(part) for part in range(3)])
    total = whole.tokens_total
    assert np.array_equal(parts.tokens, whole.tokens)
    np.testing.assert_allclose(parts.read(0, total, 2), whole.read(0, total, 2), atol=1e-5)
    assert limited.tokens_total == 128, "the first 100 tokens, in whole shards"
    assert np.array_equal(limited.positions, whole.positions[: limited.tokens_total])
    assert np.array_equal(limited.read(0, 128, 2), whole.read(0, 128, 2))
    with pytest.raises(StudyError, match=r"activations.parts: 50; .* tokens in 6 shards, and part 0 gets none"):
        dump(settings(0, parts=50), model=model, corpus=corpus, out=tmp_path / "none")


@pytest.mark.parametrize("completed", [0, 1, 3])
def test_an_interrupted_dump_ends_with_the_same_bytes(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, completed: int
) -> None:
    dump(settings(), model=model, corpus=corpus, out=tmp_path / "undisturbed" / "part-000.zarr")
    before: list[int] = []
    write, out = StoreWriter.write, tmp_path / "disturbed" / "part-000.zarr"

    def dies(self: StoreWriter, shard: int, *values: Any) -> None:
        if shard == completed:
            half = self.folder / "activations" / "c" / str(shard) / "0" / "0"
            half.parent.mkdir(parents=True, exist_ok=True)
            half.write_bytes(b"half a shard")
            raise KeyboardInterrupt
        write(self, shard, *values)
        before.append(shard)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            dump(settings(), model=model, corpus=corpus, out=out)
    written: list[int] = []
    monkeypatch.setattr(StoreWriter, "write", lambda *args: (written.append(args[1]), write(*args))[1])
    dump(settings(), model=model, corpus=corpus, out=out)
    assert completed in written
    assert sorted(before + written) == list(range(6)), "no shard is computed twice"
    assert files(out) == files(tmp_path / "undisturbed" / "part-000.zarr")


def test_broken_weights_are_named(model: Path, corpus: Path, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        network.get_input_embeddings().weight[50] = float("nan")
    network.save_pretrained(tmp_path / "rl")
    build_tokenizer().save_pretrained(tmp_path / "rl")
    tokens, documents, mask = (np.load(corpus / name) for name in (TOKENS, DOCUMENTS, MASK))
    tokens[20, 3], mask[20, 3] = 50, True
    given = write_corpus(tmp_path / "corpus", tokens, documents, mask)
    with pytest.raises(StudyError, match=r"model `rl`: .* NaN or infinite .* layers \[1, 2\], the first at row 20,"):
        dump(settings(), model=tmp_path / "rl", corpus=given, out=tmp_path / "out")
    kept = list((tmp_path / "out.partial").rglob("shard-*.json"))
    assert kept, "the shards before it are kept"


def test_a_corpus_of_another_tokenizer_is_refused(model: Path, corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    np.save(tmp_path / "corpus" / TOKENS, np.load(corpus / TOKENS) + 60)
    with pytest.raises(StudyError, match="embeddings end at id 63, the corpus holds id 99"):
        dump(settings(), model=model, corpus=tmp_path / "corpus", out=tmp_path / "out")
    vocabulary = json.loads((corpus / VOCABULARY).read_text())
    write_json(tmp_path / "corpus" / VOCABULARY, {token: index + 1 for token, index in vocabulary.items()})
    with pytest.raises(StudyError, match=r"corpus and .*base have different tokenizers: .* is id 5 .* and id 4"):
        dump(settings(), model=model, corpus=tmp_path / "corpus", out=tmp_path / "out")


def test_next_to_no_padding_is_computed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of very different lengths: what goes through the model is little more than what they hold."""
    random = np.random.default_rng(0)
    lengths = random.integers(2, 65, 96)
    inside = np.arange(64) < lengths[:, None]
    tokens = np.where(inside, random.integers(3, 40, inside.shape), 0).astype(np.int32)
    documents = np.where(inside, np.arange(96)[:, None], -1).astype(np.int32)
    corpus = write_corpus(tmp_path / "corpus", tokens, documents, inside)
    seen = 0

    def counted(network: Any, layers: list[int], **inputs: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += inputs["input_ids"].numel()
        return residuals(network, layers, **inputs)

    monkeypatch.setattr("rlgen.activations.compute.residuals", counted)
    dump(settings(shard_tokens=8192), model=model, corpus=corpus, out=tmp_path / "a")
    assert lengths.sum() <= seen < 1.05 * lengths.sum() < 0.7 * tokens.size
