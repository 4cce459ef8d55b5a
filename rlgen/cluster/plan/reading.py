"""Work of the jobs that read models' activations: dumping, crosscoders, what is read off them."""

from __future__ import annotations

from collections.abc import Sequence

from rlgen.cluster.plan.language import Language
from rlgen.cluster.plan.work import Work
from rlgen.study.sections import Activations, Crosscoder

BYTES = {"bfloat16": 2, "float32": 4}
"""Of a stored number."""
BESIDE = 20
"""Bytes a token of a store beside its activations: token, document, position, norm."""
ACTIVE_DENSE = 3.0
"""A step of a crosscoder all of whose codes may be active (L1) makes so many products where a sparse one makes one."""
MEASURED = 1 << 18
"""Tokens on which a crosscoder is diagnosed."""
SPLICED = 16384
"""Tokens on which its reconstruction is put into the models."""
BUFFER = 1 << 30
"""Bytes of the loader's buffer."""


def dump(tokens: float, row_length: int, settings: Activations, of: Language) -> Work:
    """Tokens through a model up to the last layer asked for, and to disk."""
    depth = max(settings.layers) / of.shape.layers
    passes = tokens / (row_length * settings.batch_rows)
    read = of.read(tokens, row_length / 2, depth=depth, passes=passes)
    held = settings.batch_rows * row_length * of.shape.width * 10 * of.machine.weight_bytes
    return read + Work(written=stored(tokens, settings, of.shape.width), memory=of.weights + held)


def stored(tokens: float, settings: Activations, width: int) -> float:
    """Bytes of a store; 0 where nothing is stored."""
    if settings.mode == "streamed":
        return 0.0
    return tokens * (len(settings.layers) * width * BYTES[settings.dtype] + BESIDE)


def activations(tokens: float, models: int, row_length: int, settings: Activations, of: Language) -> Work:
    """Reading so many tokens of some models' stores, at one layer; where none are stored, computing them."""
    if settings.mode == "streamed":
        return dump(tokens, row_length, settings, of).times(models)
    return Work(read=stored(tokens, settings, of.shape.width) * models / len(settings.layers))


def size(settings: Crosscoder, width: int) -> float:
    """Weights of a crosscoder: encoder and decoder."""
    return 2.0 * len(settings.models) * width * settings.features


def fit(settings: Crosscoder, tokens: float, width: int, gpus: int) -> Work:
    """The steps of a fit, without reading: the encoder's product, what few codes take, Adam.

    GPUs share the features by `feature_shards`; those that share the tokens each update all weights of their shard.
    """
    weights = size(settings, width)
    steps = tokens / settings.batch_size
    dense = ACTIVE_DENSE if settings.sparsity == "relu_l1" else 1.0
    active = 0 if settings.sparsity == "relu_l1" else settings.k
    sparse = 6 * 2 * active * len(settings.models) * width
    state = 16 * weights
    held = settings.batch_size * settings.features * 4 * (3 if dense > 1 else 1)
    return Work(
        flops=tokens * (dense * weights + sparse),
        moved=28 * weights * steps * max(1, gpus // settings.feature_shards),
        passes=steps / 4,
        written=4 * weights,
        scratch=state,
        memory=(state + held) / settings.feature_shards + BUFFER,
    )


def diagnose(settings: Crosscoder, tokens: float, of: Language) -> Work:
    """Codes of some tokens, and the reconstruction spliced into every model."""
    weights = size(settings, of.shape.width)
    models = len(settings.models)
    codes = Work(flops=min(tokens, MEASURED) * 2 * weights, memory=4 * weights + of.weights)
    spliced = of.read(min(tokens, SPLICED), 512, logits=min(tokens, SPLICED), passes=min(tokens, SPLICED) / 2048)
    return codes + spliced.times(3 * models)


def attribute(settings: Crosscoder, width: int, replicates: Sequence[Crosscoder]) -> Work:
    """Norms of decoder rows, and the cosines of all features of two fits for every replicate."""
    pairs = sum(2.0 * settings.features * other.features * len(settings.models) * width for other in replicates)
    return Work(flops=pairs, read=4 * size(settings, width) * (1 + len(replicates)))


def track(settings: Crosscoder, tokens: float, models: int, width: int) -> Work:
    """The codes of some tokens, a ridge regression and a swap readout of base and every checkpoint."""
    features = settings.features
    codes = tokens * 2 * size(settings, width) / 2
    solved = 3 * (features**3 / 3 + models * 2 * features**2 * width)
    return Work(flops=codes * (1 + models) + solved, memory=16.0 * features**2 + 4 * size(settings, width))
