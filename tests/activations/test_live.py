"""Activations computed when they are read: the same batches as from a store of the same corpus and seed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from rlgen.activations.dump import dump
from rlgen.activations.joined import join
from rlgen.activations.loader import Loader
from rlgen.data.miniature import build_tokenizer
from rlgen.errors import StudyError
from rlgen.stage import write_json
from rlgen.study.sections import Activations
from rlgen.study.stages import DumpSettings
from tests.data.corpora import write_corpus

MODELS = ("base", "rl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, a corpus, and their stores of it, stored and streamed, in two parts."""
    folder = tmp_path_factory.mktemp("study")
    config = Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, initializer_range=0.3,
    )  # fmt: skip
    random = np.random.default_rng(0)
    tokens = random.integers(3, 40, (40, 32)).astype(np.int32)
    write_corpus(folder / "corpus", tokens, np.zeros_like(tokens), random.random(tokens.shape) < 0.9)
    for seed, name in enumerate(MODELS):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        build_tokenizer().save_pretrained(folder / name)
        for mode in ("stored", "streamed"):
            for part in range(2):
                chosen = Activations(
                    layers=[1, 2], mode=mode, parts=2, batch_rows=4, chunk_tokens=128, shard_tokens=128
                )
                out = folder / mode / name / f"part-{part:03d}.zarr"
                dump(
                    DumpSettings(activations=chosen, part=part),
                    model=folder / name,
                    corpus=folder / "corpus",
                    out=out,
                )
    return folder


def batches(folder: Path, mode: str) -> list[torch.Tensor]:
    stores = [[folder / mode / name / f"part-{part:03d}.zarr" for part in range(2)] for name in MODELS]
    loader = Loader(join(stores), 2, 100, seed=1, epochs=1.5, outlier_norm=1.1, buffer_bytes=1 << 16)
    return list(loader)


def test_the_same_batches_as_from_a_store(folder: Path) -> None:
    stored, streamed = batches(folder, "stored"), batches(folder, "streamed")
    assert len(stored) == len(streamed) > 10
    assert all(map(torch.equal, stored, streamed))


def test_nothing_but_token_ids_is_stored(folder: Path) -> None:
    arrays = {path.name for path in (folder / "streamed" / "base" / "part-000.zarr").iterdir()}
    assert arrays == {"tokens", "document", "position", "zarr.json", "manifest.json"}


def test_another_model_in_its_place_is_refused(folder: Path, tmp_path: Path) -> None:
    corpus = write_corpus(
        tmp_path / "corpus", *(np.load(folder / "corpus" / f"{name}.npy") for name in ("tokens", "documents", "mask"))
    )
    chosen = Activations(layers=[1], mode="streamed", chunk_tokens=128, shard_tokens=128)
    dump(DumpSettings(activations=chosen, part=0), model=folder / "base", corpus=corpus, out=tmp_path / "a")
    write_json(corpus / "more.json", {})
    with pytest.raises(StudyError, match=r"corpus is no longer the corpus of this store; dump it again"):
        list(Loader(join([[tmp_path / "a"]]), 1, 10, seed=0))
