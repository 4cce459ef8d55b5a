"""The loader: each token once an epoch, aligned over models, the same from anywhere on."""

import itertools
import json
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.activations.joined import Joined, join
from rlgen.activations.loader import BUFFER_BYTES, Loader
from rlgen.activations.slices import Slices
from rlgen.activations.store import StoreReader
from rlgen.errors import StudyError
from rlgen.study.sections import Activations
from tests.activations.synthetic import numbered, write_store
from tests.data.corpora import write_corpus


def joined_numbers(folder: Path, count: int, models: int, chunk: int, parts: int = 1) -> Joined:
    """Stores of numbered tokens (`synthetic.numbered`), cut into parts."""
    stores = []
    for model, acts in enumerate(numbered(count, models)):
        edges = [part * count // parts for part in range(parts + 1)]
        stores.append(
            [
                write_store(
                    folder / f"{model}-{part}",
                    f"m{model}",
                    acts[low:high],
                    np.arange(low, high, dtype=np.int32),
                    part=part,
                    parts=parts,
                    chunk_tokens=chunk,
                    shard_tokens=4 * chunk,
                )
                for part, (low, high) in enumerate(itertools.pairwise(edges))
            ]
        )
    return join(stores)


def test_a_limit_takes_the_first_chunks_and_no_others(tmp_path: Path) -> None:
    joined = joined_numbers(tmp_path, 512, 2, chunk=16)
    loader = Loader(joined, 1, 32, seed=0, epochs=3, tokens=100)
    seen = torch.cat(list(loader))[:, 0, 0].int().tolist()
    assert loader.epoch_tokens == 112  # seven chunks of 16
    assert sorted(seen) == sorted(list(range(112)) * 3)


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(5, 300),
    models=st.integers(1, 3),
    chunk=st.integers(1, 40),
    parts=st.integers(1, 3),
    batch=st.integers(1, 64),
    world=st.integers(1, 3),
    buffer=st.sampled_from([1, 4000, 1 << 20]),
    seed=st.integers(0, 100),
)
def test_each_token_once_an_epoch_and_models_aligned(
    count: int, models: int, chunk: int, parts: int, batch: int, world: int, buffer: int, seed: int
) -> None:
    epochs = 2
    with tempfile.TemporaryDirectory() as folder:
        joined = joined_numbers(Path(folder), count, models, chunk, parts)
        ranks = [
            list(Loader(joined, 1, batch, seed, epochs, rank=rank, world=world, buffer_bytes=buffer))
            for rank in range(world)
        ]
    assert len({len(batches) for batches in ranks}) == 1
    steps = [torch.cat(pieces) for pieces in zip(*ranks, strict=True)]
    assert all(len(step) == batch for step in steps[:-1])
    acts_NMD = torch.cat(steps)
    assert torch.equal(acts_NMD[:, :, 0], acts_NMD[:, :1, 0].expand(-1, models))
    assert torch.equal(acts_NMD[:, :, 1], torch.arange(models).float().expand(len(acts_NMD), -1))
    assert sorted(acts_NMD[:, 0, 0].int().tolist()) == sorted(list(range(count)) * epochs)
    if world == 1:
        assert sorted(acts_NMD[:count, 0, 0].int().tolist()) == list(range(count))


def test_it_goes_on_at_the_exact_batch(tmp_path: Path) -> None:
    joined = joined_numbers(tmp_path, 500, 2, 16)
    arguments = {"layer": 1, "batch_size": 48, "seed": 3, "epochs": 2.5, "buffer_bytes": 3000}
    whole = list(Loader(joined, **arguments))
    assert len(whole) == len(Loader(joined, **arguments)) == -(-1250 // 48)
    for done in (0, 1, 9, 10, 11, 20, 26, 27):
        first = Loader(joined, **arguments)
        head = list(itertools.islice(iter(first), done))
        second = Loader(joined, **arguments)
        second.load_state_dict(first.state_dict())
        assert all(map(torch.equal, [*head, *second], whole))
        assert len(head) + len(whole[done:]) == len(whole)


def test_it_shuffles_by_its_seed(tmp_path: Path) -> None:
    joined = joined_numbers(tmp_path, 512, 1, 16)

    def order(seed: int, epochs: int = 1) -> torch.Tensor:
        return torch.cat(list(Loader(joined, 1, 32, seed, epochs)))[:, 0, 0]

    assert torch.equal(order(0), order(0))
    assert not torch.equal(order(0), order(1))
    first, second = order(0, epochs=2).split(512)
    assert not torch.equal(first, second)
    neighbours = torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1]
    assert abs(neighbours) < 4 / 512**0.5


def test_outliers_of_any_model_are_dropped(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    acts = random.standard_normal((2, 300, 1, 8)).astype(np.float32)
    acts[0, 17] *= 100
    acts[1, 201] *= 100
    joined = join([[write_store(tmp_path / str(m), f"m{m}", acts[m])] for m in range(2)])
    loader = Loader(joined, 1, 50, 0, outlier_norm=10)
    kept = np.delete(acts[:, :, 0], [17, 201], axis=1)
    seen = torch.cat(list(loader)).numpy()
    assert (loader.epoch_tokens, loader.dropped, len(seen)) == (300, 2, 298)
    assert np.array_equal(np.sort(seen[:, 0, 0]), np.sort(kept[0, :, 0]))
    centred = kept - kept.mean(axis=1, keepdims=True)
    found = loader.statistics()
    np.testing.assert_allclose(found.mean_MD, kept.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.scale_M, 8**0.5 / np.linalg.norm(centred, axis=-1).mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.variance_M, np.square(centred).sum(axis=-1).mean(axis=1), rtol=1e-6)
    delta = np.square(centred[1] - centred[0]).sum(axis=-1).mean()
    np.testing.assert_allclose(found.delta_variance_M, [0, delta], rtol=1e-6)


def test_bfloat16_stores_are_read_exactly(tmp_path: Path) -> None:
    acts = torch.randn(300, 1, 8).bfloat16()
    bits = acts.view(torch.int16).numpy().view(np.uint16)
    store = write_store(tmp_path / "a", "base", bits, dtype="bfloat16")
    batch = next(iter(Loader(join([[store], [store]]), 1, 300, 0)))
    assert torch.equal(batch[:, 0].sort(dim=0).values, acts[:, 0].sort(dim=0).values)
    assert torch.equal(batch[:, 0], batch[:, 1])


def test_an_unknown_layer_is_refused(tmp_path: Path) -> None:
    joined = joined_numbers(tmp_path, 50, 1, 16)
    with pytest.raises(Exception, match="not 7"):
        Loader(joined, 7, 10, 0)


def documents_of_a_corpus(folder: Path, mean_length: float, sizes: Activations) -> StoreReader:
    """A store whose activations are its tokens' documents, 8M tokens in the order in which a dump would store them."""
    random, rows, length = np.random.default_rng(0), 8192, 1024
    lengths = (
        random.lognormal(np.log(mean_length) - 0.5, 1.0, size=int(4 * rows * length / mean_length)).astype(int) + 1
    )
    documents = np.repeat(np.arange(len(lengths)), lengths)[: rows * length].astype(np.int32).reshape(rows, length)
    corpus = write_corpus(folder / "corpus", documents % 40, documents, np.ones(documents.shape, dtype=bool))
    slices = Slices(corpus, "digest", sizes.shard_tokens)
    stored = documents.reshape(-1)[np.concatenate([slices.shard(index) for index in range(slices.count)])]
    acts = stored.astype(np.float32)[:, None, None]
    chosen = {"chunk_tokens": sizes.chunk_tokens, "shard_tokens": sizes.shard_tokens}
    return StoreReader([write_store(folder / "a", "base", acts, documents=stored, **chosen)])


@pytest.mark.parametrize("mean_length", [300, 1500, 6000])
def test_batches_are_close_to_those_of_a_perfect_shuffle(tmp_path: Path, mean_length: float) -> None:
    """Distinct documents in a batch at least 90% of a perfect shuffle's, at the default sizes, with as many chunks in
    the buffer as at the paper's scale (three models of width 2,560 in bf16).
    """
    sizes = Activations(layers=[1])
    joined = Joined([documents_of_a_corpus(tmp_path, mean_length, sizes)])
    stored, paper = 4, 3 * 2560 * 2
    loader = Loader(joined, 1, 1024, seed=0, buffer_bytes=BUFFER_BYTES * stored // paper)
    batches = [batch[:, 0, 0].long() for batch in islice(loader, 400)]
    stream = torch.cat(batches)
    every = torch.from_numpy(joined.readers[0].documents).long()
    random = torch.Generator().manual_seed(0)
    perfect = [every[torch.randint(len(every), (1024,), generator=random)] for _ in range(400)]

    def distinct(pieces: list[torch.Tensor]) -> float:
        return float(np.mean([len(piece.unique()) for piece in pieces]))

    assert distinct(batches) >= 0.9 * distinct(perfect)
    neighbours = torch.corrcoef(torch.stack([stream[:-1], stream[1:]]).double())[0, 1]
    assert abs(neighbours) < 4 / len(stream) ** 0.5


def test_its_state_is_small_and_of_its_own_stream(tmp_path: Path) -> None:
    joined = joined_numbers(tmp_path, 200, 1, 16)
    loader = Loader(joined, 1, 32, seed=3)
    next(iter(loader))
    assert len(json.dumps(loader.state_dict())) < 200
    with pytest.raises(ValueError, match="of seed 3 and 200 tokens, not of this loader"):
        Loader(joined, 1, 32, seed=4).load_state_dict(loader.state_dict())


def test_a_fault_while_reading_ahead_reaches_the_reader(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a", "base", np.ones((600, 1, 4), dtype=np.float32))
    loader = Loader(join([[store]]), 1, 64, seed=0, buffer_bytes=4096)
    batches = iter(loader)
    next(batches)
    for file in (store / "activations" / "c").rglob("0"):
        if file.is_file():
            file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(StudyError, match="damaged"):
        list(batches)
