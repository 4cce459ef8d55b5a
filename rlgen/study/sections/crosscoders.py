"""Activations, crosscoders, and what is read off their decoders."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlgen.study.sections.common import (
    Fraction,
    Name,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Section,
    Seed,
    TokenCount,
)

Codec = Literal["none", "lz4", "zstd"]
"""`lz4`: Blosc's, after bit-shuffling; `zstd`: plain, level 1."""
Sparsity = Literal["relu_l1", "batch_topk", "topk", "jumprelu"]
"""`relu_l1`: the paper's. `batch_topk`: Minder et al. 2504.02922. `topk`: Gao et al. 2406.04093. `jumprelu`:
Rajamanoharan et al. 2407.14435."""


class Activations(Section):
    """Residual-stream activations of every model on the corpus (Zarr v3)."""

    layers: Annotated[list[PositiveInt], Field(min_length=1)]
    """Decoder blocks after which the residual stream is read; 1 is the first block, as in `hidden_states[1]`."""
    parts: Annotated[int, Field(gt=0, le=1000)] = 1
    """Parts of the corpus, dumped by separate jobs."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Stored precision; bfloat16 is stored as its bits in uint16."""
    mode: Literal["stored", "streamed"] = "stored"
    """`streamed`: nothing is stored, and what reads activations computes them. For want of disk; each reader then
    needs the models in memory and pays for their forward passes."""
    keep: bool = True
    """Whether stores stay on disk. If not, each is deleted as soon as nothing of the run reads it any more; to fit
    another crosscoder later they are dumped again, and all crosscoders that read the same stores are fitted again."""
    codec: Codec = "none"
    """Compression. It saves a fifth of the disk, and costs speed (README: measured)."""
    batch_rows: PositiveInt = 32
    """Corpus rows per forward pass."""
    chunk_tokens: PositiveInt = 512
    """Tokens per Zarr chunk, the unit of a read."""
    shard_tokens: PositiveInt = 65536
    """Tokens per Zarr shard, the unit of a file and of resuming; a multiple of `chunk_tokens`."""
    outlier_norm: PositiveFloat = 10.0
    """Tokens whose norm exceeds this many medians are left out of fitting."""


class Crosscoder(Section):
    """A sparse crosscoder over several models (METHOD: sparse crosscoder over N models)."""

    models: Annotated[list[str], Field(min_length=2)]
    """The models joined: `base` and names of arms."""
    layer: PositiveInt | None = None
    """Which of `activations.layers`; the first if not given."""
    features: PositiveInt = 32768
    """Dictionary size F. Paper: 32,768."""
    sparsity: Sparsity = "batch_topk"
    """`relu_l1`: the paper's. `batch_topk`: Minder et al. 2504.02922. `topk`: Gao et al. 2406.04093. `jumprelu`:
    Rajamanoharan et al. 2407.14435."""
    k: PositiveInt = 100
    """Active features a token (topk), or their mean number (batch_topk)."""
    l1: NonNegative = 2.0
    """Weight of the sparsity penalty (relu_l1). Paper: 2."""
    l0_weight: NonNegative = 1.0
    """Weight of the number of active features (jumprelu), in squared error a feature and token."""
    dedicated: dict[str, PositiveInt] = {}
    """Features of the dictionary that one model alone may use, by model (2602.11729)."""
    delta_weight: NonNegative = 0.0
    """Weight of the delta loss (2603.04426); 0 leaves it out."""
    aux_weight: NonNegative = 0.03125
    """Weight of the auxiliary loss that revives dead features (not for relu_l1)."""
    feature_shards: PositiveInt = 1
    """How many processes of a distributed fit share the features; the others share the tokens."""
    tokens: TokenCount | None = None
    """Only about the first so many tokens of the stores, in whole chunks; all if not given."""
    epochs: PositiveFloat = 1.0
    """Passes over the activations, or over the first `tokens` of them."""
    batch_size: PositiveInt = 1024
    """Tokens per step. Paper: 1,024."""
    lr: PositiveFloat = 1e-4
    """Peak learning rate (Adam). Paper: 1e-4."""
    warmup: Fraction = 0.05
    """Share of steps over which the sparsity penalty and the learning rate rise. Paper: 5%."""
    decay: Fraction = 0.2
    """Share of steps, the last ones, over which the learning rate falls to 0. Paper: 20%."""
    seed: Seed = 0
    """Of the initial weights and of the tokens' order, beside the study's seed."""


class Grid(Section):
    """Values to fit a crosscoder with beside its own; of several settings, every combination."""

    layer: list[PositiveInt] = []
    """Of `activations.layers`."""
    features: list[PositiveInt] = []
    """Dictionary sizes."""
    sparsity: list[Sparsity] = []
    """Kinds of sparsity."""
    k: list[PositiveInt] = []
    """Active features a token (topk), or their mean numbers (batch_topk)."""
    l1: list[NonNegative] = []
    """Weights of the sparsity penalty (relu_l1)."""
    l0_weight: list[NonNegative] = []
    """Weights of the number of active features (jumprelu)."""
    delta_weight: list[NonNegative] = []
    """Weights of the delta loss."""


class CrosscoderEntry(Crosscoder):
    """A crosscoder and its variants, each a fit of its own. The study goes on with the entry's own settings."""

    seeds: list[Seed] = []
    """Further seeds. Features are matched between them: their stability is in the feature table."""
    grid: Grid = Grid()
    """Further values of settings, for comparison."""


class Attribution(Section):
    """Which features belong to which model (METHOD: attribution)."""

    specific: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A feature is specific to the model whose MAS exceeds this."""
    nrn_range: tuple[Fraction, Fraction] = (0.4, 0.6)
    """Pairwise features outside this NRN range count as extreme; a base-base crosscoder must have none."""


class Tracking(Section):
    """Features over an arm's checkpoints (METHOD: tracking over checkpoints)."""

    crosscoders: list[Name] = []
    """Pairwise crosscoders (base and one arm) whose arm is tracked."""
    tokens: TokenCount
    """Corpus tokens on which checkpoints are dumped and decoders refitted."""
    top: PositiveInt = 50
    """Features compared between checkpoints. Paper: 50."""
    ridge: NonNegative = 1e-3
    """Ridge penalty of the decoder refit, relative to the mean diagonal of the codes' Gram matrix."""
