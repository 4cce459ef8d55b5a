"""A tiny base, an arm of it, and a crosscoder over both."""

from pathlib import Path

import torch

from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig
from rlgen.models import decoder_blocks, load_model, load_tokenizer
from tests.evaluation.tiny import make_tiny

LAYER = 2
"""Of two: after it come the final norm and the head alone, which base and arm share."""


def make_arms(root: Path) -> dict[str, Path]:
    """`base`, and `arm` with other weights in its blocks."""
    base = make_tiny(root / "base")
    model = load_model(base).cpu()
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in decoder_blocks(model).parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=random))
    model.save_pretrained(root / "arm")
    load_tokenizer(base).save_pretrained(root / "arm")
    return {"base": base, "arm": root / "arm"}


def make_crosscoder(folder: Path, features: int = 40, d: int = 32) -> Crosscoder:
    """An unfitted crosscoder over `base` and `rl`, whose features fire on about half of the tokens."""
    found = Crosscoder(CrosscoderConfig(["base", "rl"], d, features, "relu_l1", k=4, layer=LAYER))
    found.initialise(seed=5, norm=0.5)
    found.scale.fill_(0.5)
    found.save_pretrained(folder)
    return found.eval()
