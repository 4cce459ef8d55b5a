"""The sections of a study: one pydantic model each. `config.yaml` documents every key by example.

Every attribute's docstring becomes its description in `rlgen config schema`. Nothing here imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""A name that becomes a file name; `@` and `+` are kept for checkpoints and nulls."""
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
TokenSet = Literal["prompt", "last_prompt", "answer", "all"]
"""Which tokens of an item count: its prompt, the prompt's last token, the answer, or all of them."""


class Section(BaseModel):
    """Base of all settings: unknown keys are refused, values cannot be changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# ---------------------------------------------------------------------------------------------- models


class PretrainedBase(Section):
    """A small Qwen3 base, pretrained here from scratch on the miniature world (METHOD: the miniature world)."""

    method: Literal["pretrain"]
    hidden_size: PositiveInt = 128
    """Width d of the residual stream."""
    intermediate_size: PositiveInt = 256
    """Width of the MLP."""
    layers: PositiveInt = 4
    """Number of decoder blocks."""
    heads: PositiveInt = 4
    """Attention heads; `hidden_size` must be a multiple of it."""
    steps: PositiveInt = 480
    """Optimiser steps."""
    batch_size: PositiveInt = 64
    """Documents per step."""
    lr: PositiveFloat = 3e-3
    """Peak learning rate; it falls linearly over the last 60% of steps."""
    think_rate: Fraction = 0.3
    """Share of documents answered by running intermediate results (always right)."""
    guess_accuracy: Fraction = 0.3
    """Share of the other documents whose immediate answer is right."""
    first_think_rate: Fraction = 0.9
    """`think_rate` in the first part of training: thinking is learnt fastest when there is much of it."""
    first_share: Fraction = 0.6
    """The first part's share of training."""


class ExistingBase(Section):
    """A base model that exists already."""

    method: Literal["existing"]
    path: str
    """Folder in Hugging Face format, or a hub id."""
    revision: str | None = None
    """Commit or tag on the hub; unused for a folder."""


Base = Annotated[PretrainedBase | ExistingBase, Field(discriminator="method")]


class Arm(Section):
    """What every arm has."""

    name: Name
    """The arm's name; it becomes a model of the study."""


class TrainedArm(Arm):
    """What every arm that is trained here has."""

    epochs: PositiveFloat = 1.0
    """Passes over the problems."""
    batch_size: PositiveInt = 128
    """Sequences per optimiser step: solutions in SFT, completions in GRPO."""
    micro_batch_size: PositiveInt = 128
    """Sequences per forward pass; the rest is gradient accumulation. Divides `batch_size`."""
    warmup: Fraction = 0.0
    """Share of steps over which the learning rate rises linearly to its peak."""
    checkpoints: PositiveInt = 5
    """Checkpoints kept, evenly spaced; the last is the finished arm."""


class SftArm(TrainedArm):
    """Supervised fine-tuning on the problems' solutions (TRL's SFTTrainer)."""

    method: Literal["sft"]
    lr: PositiveFloat = 5e-5
    """Peak learning rate. Paper: 5e-5."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Learning rate after the warm-up."""
    max_length: PositiveInt = 16384
    """Longest prompt and solution, in tokens; longer ones are left out and counted."""


class GrpoArm(TrainedArm):
    """Group relative policy optimisation on the problems' answers (TRL's GRPOTrainer)."""

    method: Literal["grpo"]
    lr: PositiveFloat = 1e-6
    """Peak learning rate. Paper: 1e-6."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after the warm-up."""
    generations: Annotated[int, Field(ge=2)] = 8
    """Rollouts per prompt; divides `batch_size`. Paper: 8."""
    max_completion_length: PositiveInt = 16384
    """Longest completion, in tokens."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature of the rollouts."""
    beta: NonNegative = 0.0
    """Weight of the KL penalty to the base. Paper: none."""
    clip_low: PositiveFloat = 0.2
    """Lower clipping range of the importance ratio."""
    clip_high: PositiveFloat = 0.28
    """Upper clipping range of the importance ratio."""
    reward: str = "rlgen.posttrain.rewards:final_answer"
    """`package.module:function` with TRL's reward signature; the default gives 1 for a right final answer."""


class ExistingArm(Arm):
    """A post-trained model that exists already."""

    method: Literal["existing"]
    path: str
    """Folder in Hugging Face format, or a hub id."""
    revision: str | None = None
    """Commit or tag on the hub; unused for a folder."""
    checkpoints: list[str] = []
    """Folders or hub ids of its earlier checkpoints, oldest first, the finished arm left out."""


AnyArm = Annotated[SftArm | GrpoArm | ExistingArm, Field(discriminator="method")]


# ------------------------------------------------------------------------------------------------ data

WorldTask = Literal["mod", "max", "par", "cnt", "min", "run"]
"""The miniature world's tasks (`rlgen.data.miniature`)."""


class MiniatureProblems(Section):
    """Training problems drawn from the miniature world."""

    source: Literal["miniature"]
    task: WorldTask = "mod"
    """The one task that both arms are trained on."""
    items: PositiveInt = 4096
    """Number of problems."""


class JsonlProblems(Section):
    """Training problems from a local JSONL file."""

    source: Literal["jsonl"]
    path: Path
    """One JSON object a line."""
    items: PositiveInt | None = None
    """Rows used, from the first; all if not given."""
    prompt: str = "{problem}\n"
    """Python format string over a row's fields: what the model is given."""
    answer: str = "answer"
    """Field with the final answer."""
    solution: str | None = "solution"
    """Field with the worked solution that SFT learns; null if there is none."""


Problems = Annotated[MiniatureProblems | JsonlProblems, Field(discriminator="source")]


class MiniatureTask(Section):
    """An evaluation task of the miniature world: free generation, the final answer is compared."""

    name: Name
    """The task's name."""
    source: Literal["miniature"]
    task: WorldTask | None = None
    """The world's task, if its name is not the task's own."""
    items: PositiveInt = 400
    """Number of items, drawn apart from the training problems."""


class JsonlTask(Section):
    """An evaluation task from a local JSONL file."""

    name: Name
    """The task's name."""
    source: Literal["jsonl"]
    path: Path
    """One JSON object a line."""
    format: Literal["multiple_choice", "generate"]
    """`multiple_choice`: log-likelihood of `choices`, `answer` is an index. `generate`: free text, `answer` is text."""
    items: PositiveInt | None = None
    """Rows used, from the first; all if not given."""
    prompt: str = "Question: {question}\nAnswer:"
    """Python format string over a row's fields."""


Task = Annotated[MiniatureTask | JsonlTask, Field(discriminator="source")]


class Tasks(Section):
    """The evaluation tasks, in three groups; a task belongs to one group."""

    train_domain: list[Task] = []
    """Tasks of the domain that the arms are trained on."""
    transfer: Annotated[list[Task], Field(min_length=1)]
    """Tasks never trained on; localisation selects features here."""
    unseen: list[Task] = []
    """Tasks neither trained on nor used to select features."""


class Evaluation(Section):
    """How every model is evaluated (lm-evaluation-harness)."""

    samples: PositiveInt = 1
    """Samples per generated item."""
    temperature: NonNegative = 1.0
    """Sampling temperature; 0 is greedy."""
    max_new_tokens: PositiveInt = 32
    """Longest generated answer, in tokens."""
    batch_size: PositiveInt = 256
    """Sequences per batch."""


class MiniatureText(Section):
    """Documents of the miniature world, all tasks and both modes, as the base is pretrained on."""

    source: Literal["miniature"]
    weight: PositiveFloat = 1.0
    """Share of the corpus' tokens, relative to the other sources."""


class ProblemText(Section):
    """The training problems with their solutions."""

    source: Literal["problems"]
    weight: PositiveFloat = 1.0
    """Share of the corpus' tokens, relative to the other sources."""


class JsonlText(Section):
    """Text of a local JSONL file, repeated from its start if it is too short."""

    source: Literal["jsonl"]
    path: Path
    """One JSON object a line."""
    field: str = "text"
    """Field with the document's text."""
    weight: PositiveFloat = 1.0
    """Share of the corpus' tokens, relative to the other sources."""


Text = Annotated[MiniatureText | ProblemText | JsonlText, Field(discriminator="source")]


class Corpus(Section):
    """The token ids on which every model's activations are taken."""

    tokens: PositiveInt
    """Size, in tokens; rounded down to whole rows."""
    row_length: Annotated[int, Field(ge=8)] = 1024
    """Tokens per packed row."""
    separate_documents: bool = False
    """Documents of a row do not attend to one another, and their positions start anew."""
    sources: Annotated[list[Text], Field(min_length=1)]
    """Where the text comes from, mixed by weight."""


class Activations(Section):
    """Residual-stream activations of every model on the corpus (Zarr v3)."""

    layers: Annotated[list[PositiveInt], Field(min_length=1)]
    """Decoder blocks after which the residual stream is read; 1 is the first block, as in `hidden_states[1]`."""
    parts: PositiveInt = 1
    """Parts of the corpus, dumped by separate jobs."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Stored precision; bfloat16 is stored as its bits in uint16."""
    batch_rows: PositiveInt = 32
    """Corpus rows per forward pass."""
    chunk_tokens: PositiveInt = 2048
    """Tokens per Zarr chunk, the unit of a read."""
    shard_tokens: PositiveInt = 65536
    """Tokens per Zarr shard, the unit of a file and of resuming; a multiple of `chunk_tokens`."""
    outlier_norm: PositiveFloat = 10.0
    """Tokens whose norm exceeds this many medians are left out of fitting."""


# ---------------------------------------------------------------------------------------- crosscoders


class Crosscoder(Section):
    """A sparse crosscoder over several models (METHOD: sparse crosscoder over N models)."""

    models: Annotated[list[str], Field(min_length=2)]
    """The models joined: `base` and names of arms."""
    layer: PositiveInt | None = None
    """Which of `activations.layers`; the first if not given."""
    features: PositiveInt = 32768
    """Dictionary size F. Paper: 32,768."""
    sparsity: Literal["relu_l1", "batch_topk"] = "batch_topk"
    """`relu_l1`: the paper's. `batch_topk`: Minder et al. 2504.02922."""
    k: PositiveInt = 100
    """Mean number of active features a token (batch_topk)."""
    l1: NonNegative = 2.0
    """Weight of the sparsity penalty (relu_l1). Paper: 2."""
    delta_weight: NonNegative = 0.0
    """Weight of the delta loss (2603.04426); 0 leaves it out."""
    aux_weight: NonNegative = 0.03125
    """Weight of the auxiliary loss that revives dead features (batch_topk)."""
    epochs: PositiveFloat = 1.0
    """Passes over the activations."""
    batch_size: PositiveInt = 1024
    """Tokens per step. Paper: 1,024."""
    lr: PositiveFloat = 1e-4
    """Peak learning rate (Adam). Paper: 1e-4."""
    warmup: Fraction = 0.05
    """Share of steps over which the sparsity penalty and the learning rate rise. Paper: 5%."""
    decay: Fraction = 0.2
    """Share of steps, the last ones, over which the learning rate falls to 0. Paper: 20%."""


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
    tokens: PositiveInt
    """Corpus tokens on which checkpoints are dumped and decoders refitted."""
    top: PositiveInt = 50
    """Features compared between checkpoints. Paper: 50."""
    ridge: NonNegative = 1e-3
    """Ridge penalty of the decoder refit, relative to the mean diagonal of the codes' Gram matrix."""


# ------------------------------------------------------------------------------------ causal analysis


class Localisation(Section):
    """The features behind "base wrong, arm right" (METHOD: localisation)."""

    crosscoder: Name
    """A crosscoder that joins base and the arm."""
    arm: Name
    """The arm whose right answers are explained."""
    tokens: TokenSet = "last_prompt"
    """Where codes are averaged."""
    score: Literal["code_difference", "attribution"] = "code_difference"
    """`code_difference`: mean code in the arm minus in base (paper). `attribution`: how much likelier the arm's own
    answers become in base, to first order, when the feature's decoded difference is added to base."""
    threshold: Fraction | None = 0.2
    """A feature must exceed this share of the maximum score on every transfer task. Paper: 0.2. Null: its mean score
    over the tasks must be positive, and no more."""
    top: PositiveInt = 20
    """At most so many features are kept, by mean score (code differences are weighted with the decoder norm)."""
    selection: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of each task's items used to select; interventions are measured on the others."""
    permutations: PositiveInt = 200
    """Draws of the permutation null over item labels."""


class Edit(Section):
    """One kind of edit of a live model."""

    alpha: NonNegative = 1.0
    """Strength; 0 leaves the model as it is."""
    tokens: TokenSet = "all"
    """The tokens whose residual stream is edited."""


class Amplification(Edit):
    """Adding a fixed shift."""

    norm: PositiveFloat | None = None
    """Injected norm, as a share of the mean norm of base's centred activations on the corpus; `alpha` then follows.
    So expressed, one strength does for arms that moved far and arms that moved little."""


class Interventions(Section):
    """Causal tests of the localised features, with their controls (METHOD: interventions)."""

    ablate: Edit = Edit()
    """In the arm: subtract the features' decoded contribution, token by token."""
    amplify: Amplification = Amplification()
    """In the base: add the features' mean decoded difference between arm and base."""
    draws: PositiveInt = 20
    """Random feature sets matched on firing rate and injected norm."""
    directions: PositiveInt = 20
    """Random directions of equal norm."""
    samples: PositiveInt = 1
    """Samples per generated item."""
    bootstrap: PositiveInt = 1000
    """Bootstrap resamples over items."""


class Nulls(Section):
    """Crosscoders that must find nothing (METHOD: nulls that must come out null)."""

    like: Name
    """The crosscoder whose settings the nulls take."""
    noise_like: Name
    """The arm whose weight change the noise arm's norm is matched to, matrix by matrix."""


class Report(Section):
    """The page at the end."""

    title: str = "Why reinforcement learning generalises where supervised fine-tuning forgets"
    """The page's heading."""
    note: str | None = None
    """A paragraph at the top, for instance what the study cannot show."""


class Resources(Section):
    """What a rule's job is given."""

    threads: PositiveInt = 1
    """CPU threads; also OMP_NUM_THREADS of the job."""
    mem_mb: PositiveInt = 2000
    """Memory, in MB."""
    runtime: PositiveInt = 60
    """Time limit, in minutes."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs."""
