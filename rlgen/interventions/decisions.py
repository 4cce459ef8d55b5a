"""What a model is about to do at the end of a prompt, beside what base and arm would do there."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

REFERENCES = ("base", "arm")


class Decisions:
    """KL divergences of the next-token distribution after prompts, to the unedited base's and arm's, in nats."""

    def __init__(self) -> None:
        self._references: dict[str, dict[bytes, Tensor]] = {name: {} for name in REFERENCES}
        self._seen: dict[bytes, Tensor] = {}

    def clear(self) -> None:
        """Forget all prompts."""
        for kept in (*self._references.values(), self._seen):
            kept.clear()

    def listen(self, keys: list[bytes], logprobs_BV: Tensor) -> None:
        """Take note of log-probabilities after prompts, [batch, vocabulary]."""
        self._seen |= dict(zip(keys, logprobs_BV, strict=True))

    def remember(self, name: str) -> None:
        """What was seen since the last `divergences` is the reference `name`."""
        self._references[name], self._seen = self._seen, {}

    def of_reference(self, name: str, keys: Iterable[bytes]) -> pd.DataFrame:
        """As `divergences`, of a reference itself."""
        return self._table(self._references[name], list(keys))

    def divergences(self, keys: Iterable[bytes]) -> pd.DataFrame:
        """Columns kl_base and kl_arm, one row a key: KL(seen || reference); nan without both. Forgets what was seen."""
        seen, self._seen = self._seen, {}
        return self._table(seen, list(keys))

    def _table(self, seen: dict[bytes, Tensor], keys: list[bytes]) -> pd.DataFrame:
        columns = {}
        for name in REFERENCES:
            reference = self._references[name]
            known = [key for key in dict.fromkeys(keys) if key in seen and key in reference]
            values = dict(zip(known, _kl(seen, reference, known), strict=True))
            columns[f"kl_{name}"] = [values.get(key, float("nan")) for key in keys]
        return pd.DataFrame(columns)


def _kl(seen: dict[bytes, Tensor], reference: dict[bytes, Tensor], keys: list[bytes]) -> list[float]:
    if not keys:
        return []
    seen_NV, reference_NV = (torch.stack([of[key] for key in keys]) for of in (seen, reference))
    difference_NV = torch.where(seen_NV.exp() > 0, seen_NV - reference_NV, 0.0)
    return (seen_NV.exp() * difference_NV).sum(-1).clamp(min=0).tolist()
