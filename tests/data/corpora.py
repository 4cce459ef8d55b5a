"""Corpora with known content."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlgen.data.corpus import CORPUS_JSON, DOCUMENTS, MASK, TOKENS, VOCABULARY
from rlgen.data.miniature import build_tokenizer
from rlgen.stage import json_digest, write_json


def write_corpus(
    folder: Path,
    tokens: NDArray[np.int32],
    documents: NDArray[np.int32],
    mask: NDArray[np.bool_],
    separate: bool = False,
) -> Path:
    """A corpus artifact of the world's tokenizer, [rows, row_length] each."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {TOKENS: tokens, DOCUMENTS: documents, MASK: mask}
    for name, array in arrays.items():
        np.save(folder / name, array)
    vocabulary = build_tokenizer().get_vocab()
    write_json(folder / VOCABULARY, vocabulary)
    digest = json_digest(sorted(vocabulary.items()))
    write_json(folder / CORPUS_JSON, {"separate_documents": separate, "vocabulary_digest": digest})
    return folder
