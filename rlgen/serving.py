"""vLLM, which is installed beside: what the teacher's and the evaluation's engines start it with."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from rlgen.errors import StudyError
from rlgen.models import load_config, locate


def import_serving(module: str, key: str) -> Any:
    """A module that needs vLLM. Raises StudyError if it cannot be had; `key` is the setting that asks for it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise StudyError(
            f"{key}: vllm cannot be imported ({error}); `pip install vllm`, or set `transformers`"
        ) from None


def vllm_arguments(model: Path, longest: int) -> dict[str, Any]:
    """What vLLM is given beside a model's path: its revision, what its files may do, all GPUs, its longest sequence.

    `longest` is the longest sequence that will be asked for, in tokens: vLLM keeps room for one of the longest that it
    admits, and the models' own (262,144 tokens of Qwen3-4B-Instruct-2507) leave it none on a smaller card. A model
    that is shorter itself is given its own limit.
    """
    where = locate(model)
    limit = getattr(load_config(model).get_text_config(), "max_position_embeddings", None)
    return {
        "revision": where.revision,
        "tokenizer_revision": where.revision,
        "trust_remote_code": where.trust_remote_code,
        "load_format": "auto" if where.allow_pickle else "safetensors",
        "tensor_parallel_size": max(torch.cuda.device_count(), 1),
        "max_model_len": min(longest, limit) if limit else longest,
    }
