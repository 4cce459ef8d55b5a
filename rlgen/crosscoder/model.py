"""The crosscoder: one sparse code, N encoders and decoders (METHOD section 4; paper, section 3).

    f(x) = sigma(sum_m W_enc^m x_m + b_enc)        x^_m = f(x) W_dec^m + b_dec^m

Everything here takes and gives raw activations; inside, each model's are centred and scaled so that their mean
norm is sqrt(d). Nothing here needs the training code.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlgen.errors import StudyError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class CrosscoderConfig:
    """What a crosscoder is, apart from its weights."""

    models: list[str]
    """The models joined, in the order of the slots; one may be there twice."""
    d: int
    """Width of the residual stream."""
    features: int
    sparsity: str
    """`batch_topk`, `topk`, `jumprelu` or `relu_l1`."""
    k: int
    """Active features a token (topk), or their mean number (batch_topk)."""
    layer: int
    """Decoder block after which the activations are read; 1 is the first."""
    dedicated: dict[str, int] = field(default_factory=dict)
    """Features that one model alone may use, by its name (2602.11729): the dictionary's last ones, in this order."""

    @property
    def slots(self) -> list[str]:
        """The models' names, each once: the second of a kind is `<model>#2`."""
        earlier = [self.models[:slot].count(model) for slot, model in enumerate(self.models)]
        return [f"{m}#{n + 1}" if n else m for m, n in zip(self.models, earlier, strict=True)]

    @property
    def foreign(self) -> list[tuple[slice, int]]:
        """Blocks of weights that stay 0: dedicated features, and a slot that is not their model's."""
        blocks, stop = [], self.features
        for name, count in reversed(self.dedicated.items()):
            start = stop - count
            blocks += [(slice(start, stop), slot) for slot, model in enumerate(self.models) if model != name]
            stop = start
        return blocks

    @property
    def reference(self) -> int:
        """The slot that differences are taken to: the base's, or the first if the base is not joined."""
        return self.models.index("base") if "base" in self.models else 0


class Crosscoder(nn.Module):
    """A sparse crosscoder. `from_pretrained` loads one; `initialise` makes a new one ready for fitting."""

    mean: Tensor
    scale: Tensor
    threshold: Tensor
    """batch_topk: the score that a code must exceed, apart from fitting."""
    limit_M: Tensor
    """Largest norm of a model's raw activations that was fitted on; beyond it they are outliers."""

    def __init__(self, config: CrosscoderConfig) -> None:
        super().__init__()
        self.config = config
        models, d, features = len(config.models), config.d, config.features
        self.W_enc = nn.Parameter(torch.empty(features, models, d))
        self.b_enc = nn.Parameter(torch.zeros(features))
        self.W_dec = nn.Parameter(torch.empty(features, models, d))
        self.b_dec = nn.Parameter(torch.zeros(models, d))
        if config.sparsity == "jumprelu":
            self.log_threshold = nn.Parameter(torch.zeros(features))
            """Logarithm of the score that a feature's code must exceed."""
        self.register_buffer("mean", torch.zeros(models, d))
        self.register_buffer("scale", torch.ones(models))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("limit_M", torch.full((models,), torch.inf))

    @torch.no_grad()
    def initialise(self, seed: int, norm: float | None = None) -> None:
        """Random decoder rows of norm 0.08 in every model, and the encoder tied to them (paper, section 3).

        Or of another norm. jumprelu: of norm 1 over all models, so that pre-activations have a standard deviation of
        about 1, and with thresholds at twice that of the scores.
        """
        jump, models = self.config.sparsity == "jumprelu", len(self.config.models)
        random = torch.Generator().manual_seed(seed)
        rows_FMD = nn.functional.normalize(torch.randn(self.W_dec.shape, generator=random), dim=-1)
        self.W_dec.copy_((norm or (models**-0.5 if jump else 0.08)) * rows_FMD)
        for features, slot in self.config.foreign:
            self.W_dec[features, slot] = 0
        self.W_enc.copy_(self.W_dec)
        if jump:
            self.log_threshold.fill_(math.log(2 * math.sqrt(models)))

    @property
    def bandwidth(self) -> float:
        """jumprelu: width of the straight-through estimator, in scores: a quarter of their first standard deviation."""
        return 0.25 * math.sqrt(len(self.config.models))

    def normalise(self, acts_BMD: Tensor) -> Tensor:
        """Raw activations to the crosscoder's own scale, [B, M, d]."""
        return (acts_BMD - self.mean) * self.scale[:, None]

    def ordinary(self, acts: Tensor, model: str | int) -> Tensor:
        """Which of a model's raw activations [..., d] are no outliers, [...]: about those the crosscoder says nothing.

        The loader's rule, which left outliers out of fitting.
        """
        ordinary: Tensor = torch.linalg.vector_norm(acts, dim=-1) <= self.limit_M[self.slot(model)]
        return ordinary

    def selection_weights(self) -> Tensor:
        """sum_m ||W_dec,k^m||_2, [F]: what a code is multiplied by before the largest are selected."""
        norms_FM: Tensor = self.W_dec.norm(dim=-1)
        return norms_FM.sum(dim=-1)

    def encode(self, acts_BMD: Tensor) -> Tensor:
        """Codes of raw activations, [B, F]. BatchTopK selects by its threshold here, so tokens do not mix."""
        return self.encode_normalised(self.normalise(acts_BMD))

    def encode_normalised(self, normalised_BMD: Tensor) -> Tensor:
        """As `encode`, of activations that are in the crosscoder's own scale already, [B, F]."""
        codes_BF = torch.relu(normalised_BMD.flatten(1) @ self.W_enc.flatten(1).T + self.b_enc)
        if self.config.sparsity == "relu_l1":
            return codes_BF
        scores_BF = codes_BF * self.selection_weights()
        return codes_BF * (scores_BF >= self._lowest(scores_BF)) * (scores_BF > 0)

    def _lowest(self, scores_BF: Tensor) -> Tensor:
        """The score that a code must have to be kept, for every token or feature."""
        if self.config.sparsity == "topk":
            return scores_BF.topk(min(self.config.k, self.config.features)).values[:, -1:]
        return self.log_threshold.exp() if self.config.sparsity == "jumprelu" else self.threshold

    def decode(self, codes_BF: Tensor) -> Tensor:
        """Raw activations of all models from codes, [B, M, d]."""
        normalised_BI = codes_BF @ self.W_dec.flatten(1)
        return self.denormalise(normalised_BI.view(-1, *self.b_dec.shape) + self.b_dec)

    def denormalise(self, normalised_BMD: Tensor) -> Tensor:
        """The inverse of `normalise`, [B, M, d]."""
        return normalised_BMD / self.scale[:, None] + self.mean

    def swap_readout(self, acts_BD: Tensor, model: str | int) -> Tensor:
        """One model's own codes, [B, F]: its activations in every slot (2609.35210).

        `model` names the slot whose mean and scale normalise the raw activations: their own model's.
        """
        slot = self.slot(model)
        normalised_BD = (acts_BD - self.mean[slot]) * self.scale[slot]
        return self.encode_normalised(normalised_BD[:, None].expand(-1, len(self.config.models), -1))

    def decoder_projection(self, acts_BD: Tensor, model: str | int) -> Tensor:
        """One model's own codes, [B, F]: least squares on each of its decoder rows alone, the bias taken off.

        <x - b_dec, W_dec,k> / |W_dec,k|^2 of activations x in the crosscoder's own scale; 0 for a row that is 0. They
        may be negative, hardly any is 0, and features with like rows count the same part of x again.
        """
        slot = self.slot(model)
        rows_FD = self.W_dec[:, slot]
        centred_BD = (acts_BD - self.mean[slot]) * self.scale[slot] - self.b_dec[slot]
        square_F = rows_FD.square().sum(dim=-1)
        return (centred_BD @ rows_FD.T) / torch.where(square_F > 0, square_F, 1)

    def decoder_rows(self, model: str | int) -> Tensor:
        """A model's decoder in raw units, [F, d]: `codes @ decoder_rows(m)` is what the features contribute."""
        slot = self.slot(model)
        return self.W_dec[:, slot] / self.scale[slot]

    @torch.no_grad()
    def part(self, features: Sequence[int]) -> Crosscoder:
        """Some of the features alone: their codes are the same, at a fraction of the cost (not so for topk)."""
        found = Crosscoder(replace(self.config, features=len(features), dedicated={})).to(self.W_enc)
        index = torch.tensor(features, dtype=torch.long, device=self.W_enc.device)
        own = self.state_dict()
        found.load_state_dict({name: own[name][index] if name in self.by_feature else own[name] for name in own})
        return found.eval()

    @property
    def by_feature(self) -> set[str]:
        """Names of the weights that have a row a feature."""
        return {name for name, _ in self.named_parameters() if name != "b_dec"}

    def slot(self, model: str | int) -> int:
        """The slot of a model, given by name (`<model>` or `<model>#2`) or by its index."""
        if isinstance(model, int):
            return model
        if model not in self.config.slots:
            raise StudyError(f"crosscoder over {', '.join(self.config.slots)}: no model `{model}` in it")
        return self.config.slots.index(model)

    @torch.no_grad()
    def folded(self) -> Crosscoder:
        """The same function of raw activations with their means and scales folded into the weights.

        f = (x @ W_enc + b_enc) where that exceeds a threshold a feature (jumprelu), else 0; x^ = f @ W_dec + b_dec: all
        that other code needs to use it. Norms of decoder rows are in raw units then. Raises StudyError for topk, which
        compares features by their norms in the crosscoder's own scale.
        """
        if self.config.sparsity == "topk":
            raise StudyError("a topk crosscoder ranks features in its own scale; it cannot be folded, use it as it is")
        plain = self.config.sparsity == "relu_l1"
        found = Crosscoder(replace(self.config, sparsity="relu_l1" if plain else "jumprelu")).to(self.W_enc)
        W_enc_FMD = self.W_enc * self.scale[:, None]
        own = self.state_dict() | {
            "W_enc": W_enc_FMD,
            "b_enc": self.b_enc - (W_enc_FMD * self.mean).sum(dim=(1, 2)),
            "W_dec": self.W_dec / self.scale[:, None],
            "b_dec": self.b_dec / self.scale[:, None] + self.mean,
            "mean": torch.zeros_like(self.mean),
            "scale": torch.ones_like(self.scale),
        }
        if not plain:
            threshold_F = self.log_threshold.exp() if self.config.sparsity == "jumprelu" else self.threshold
            in_raw_units_F = own["W_dec"].norm(dim=-1).sum(dim=-1) / self.selection_weights()
            own["log_threshold"] = (threshold_F * in_raw_units_F).log()
        found.load_state_dict(own)
        return found.eval()

    def save_pretrained(self, folder: Path | str) -> None:
        """Write config.json and model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(asdict(self.config), indent=1, sort_keys=True) + "\n")
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / WEIGHTS)

    def push_to_hub(self, repository: str, private: bool = False, token: str | None = None) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub; returns the commit's address.

        `repository` is `owner/name`, made if it is not there. Raises StudyError if the hub refuses or is not reached.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            try:
                api = HfApi(token=token)
                api.create_repo(repository, private=private, exist_ok=True)
                return str(api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A crosscoder"))
            except (OSError, HfHubHTTPError, ValueError) as error:
                raise StudyError(f"{repository}: cannot be uploaded ({error}); log in or mend the name") from None

    @classmethod
    def from_pretrained(cls, source: Path | str, revision: str | None = None) -> Self:
        """Load what `save_pretrained` wrote, from a folder or from the hub (`owner/name`, at a commit, tag or branch).

        Raises StudyError if it is not there.
        """
        folder = Path(source)
        if not (folder / CONFIG).is_file():
            folder = _from_hub(source, revision)
        crosscoder = cls(CrosscoderConfig(**json.loads((folder / CONFIG).read_text())))
        crosscoder.load_state_dict({"limit_M": crosscoder.limit_M, **load_file(folder / WEIGHTS)})
        return crosscoder.eval()


def _from_hub(source: Path | str, revision: str | None) -> Path:
    """A crosscoder's folder in the hub's cache, downloaded if need be."""
    if Path(source).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise StudyError(f"{source}: no crosscoder there ({CONFIG} is missing); fit it first")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise StudyError(f"{source}: no such folder, nor a crosscoder on the hub ({error}); mend the name") from None
