"""Localisation, interventions, and the nulls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from rlgen.study.sections.common import (
    Fraction,
    Name,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Section,
    TaskGroup,
    TokenSet,
    files_of,
)

CodeKind = Literal["swap_readout", "decoder_projection"]
"""How a joint code gives a value for one model."""


class Localisation(Section):
    """The features behind "base wrong, arm right" (METHOD: localisation)."""

    crosscoder: str
    """A crosscoder that joins base and the arm."""
    compare: list[str] = []
    """Further crosscoders, or fits of their grids, that join base and the arm: localised and tested beside it. Those
    that differ from `crosscoder` in the seed alone always are."""
    arm: str
    """The arm whose right answers are explained."""
    tokens: TokenSet = "last_prompt"
    """Where codes are averaged."""
    codes: CodeKind = "swap_readout"
    """A model's own code of a feature. `swap_readout`: what the crosscoder says with its activation in every slot.
    `decoder_projection`: its activation's coefficient on its decoder row alone; not sparse."""
    score: Literal["code_difference", "attribution", "delta_patching"] = "code_difference"
    """`code_difference`: mean code in the arm minus in base (paper). `attribution`: how much likelier the arm's own
    answers become in base, to first order, when the feature's decoded difference is added to base. `delta_patching`:
    the same, measured by adding it."""
    candidates: PositiveInt = 256
    """Features that `delta_patching` measures: those of largest attribution or code difference in either direction,
    over all items that select, whoever is right."""
    patched_items: PositiveInt = 64
    """Items a task, at most, that base has wrong and the arm right and that `delta_patching` measures; as many others
    for the null."""
    threshold: Fraction | None = 0.2
    """A feature must exceed this share of the maximum score on every transfer task. Paper: 0.2. Null: its mean score
    over the tasks must be positive, and no more."""
    top: PositiveInt = 20
    """At most so many features are kept, by mean score (code differences are weighted with the decoder norm)."""
    selection: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of each task's items used to select; interventions are measured on the others."""
    oracle: bool = False
    """Whether every single feature is tried in the model itself, and all scores are compared with what that finds."""
    permutations: PositiveInt = 200
    """Draws of the permutation null over item labels."""
    bootstrap: PositiveInt = 200
    """Resamples of the items that select: how often the same features are chosen again."""


class Edit(Section):
    """One kind of edit of a live model."""

    alpha: NonNegative = 1.0
    """Strength; 0 leaves the model as it is."""
    tokens: TokenSet = "all"
    """The tokens whose residual stream is edited."""
    sweep: list[NonNegative] = []
    """Further strengths, as multiples of this one, at which the edit is measured without its random controls."""


class Amplification(Edit):
    """Adding a fixed shift."""

    norm: PositiveFloat | None = None
    """Injected norm, as a share of the mean norm of base's centred activations on the corpus, in the place of `alpha`.
    So expressed, one strength does for arms that moved far and arms that moved little."""

    @model_validator(mode="after")
    def _one_strength(self) -> Amplification:
        if self.norm is not None and "alpha" in self.model_fields_set:
            raise PydanticCustomError("two_strengths", "give alpha or norm, not both")
        return self


class Interventions(Section):
    """Causal tests of the localised features, with their controls (METHOD: interventions).

    Amplification and ablation are made unless they are null, at every token unless they say otherwise; the other edits
    are made if they are given.
    """

    ablate: Edit | None = Edit()
    """In the arm: subtract the features' decoded contribution, token by token. Null: not made."""
    amplify: Amplification | None = Amplification()
    """In the base: add the features' mean decoded difference between arm and base. Null: not made."""
    transplant: Edit | None = None
    """In the base: the features' decoded codes in the arm, on the same tokens, in the place of base's own."""
    scale: Edit | None = None
    """In the base: the features' own contribution once more, `alpha` times."""
    mean_ablate: Edit | None = None
    """In the arm: the features' contribution at their mean codes in the place of the token's own."""
    revert: Edit | None = None
    """In the arm: the features' decoded codes in base, on the same tokens, in the place of the arm's own."""
    with_layers: list[str] = []
    """Crosscoders of other layers, among those of `localisation.compare`, whose features are edited together with
    those of `localisation.crosscoder`."""
    mode: str | None = None
    """`package.module:function`, which says of (prompt, response) whether the answer is in a mode of interest. How
    often it is, is told of every condition."""
    portion_tokens: PositiveInt = 131072
    """Prompts of so many tokens are read once for all conditions; their keys and values are in memory together."""
    groups: Annotated[list[TaskGroup], Field(min_length=1)] = ["train_domain", "transfer", "unseen"]
    """Groups of tasks that effects are measured on; `transfer` must be one."""
    items: PositiveInt | None = None
    """Measurement items a task at most; all if not given. Together with `draws` it sets what the tests cost."""
    draws: PositiveInt = 20
    """Random feature sets matched on firing rate and injected norm."""
    directions: PositiveInt = 20
    """Random directions of equal norm."""
    samples: PositiveInt = 1
    """Samples per generated item."""
    bootstrap: PositiveInt = 1000
    """Bootstrap resamples over items."""

    @property
    def mode_files(self) -> list[str]:
        """The mode's file, if it is the user's own."""
        return files_of(self.mode)


class Nulls(Section):
    """Crosscoders that must find nothing (METHOD: nulls that must come out null)."""

    like: Name
    """The crosscoder whose settings the nulls take."""
    noise_like: Name
    """The arm whose weight change the noise arm's norm is matched to, matrix by matrix."""
