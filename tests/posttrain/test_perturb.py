"""The noise null."""

import json
from pathlib import Path

import pytest
import torch

from rlgen.errors import StudyError
from rlgen.models import load_model, load_tokenizer, save_model
from rlgen.posttrain.perturb import perturb
from rlgen.stage import content_digest
from rlgen.study.stages import PerturbSettings
from tests.evaluation.tiny import make_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def arm(tiny: Path, tmp_path: Path) -> Path:
    """A model of which one matrix moved far, one norm's weight a little, and nothing else."""
    model = load_model(tiny)
    with torch.no_grad():
        model.lm_head.weight[3] += 0.5
        model.model.norm.weight += 0.01
    model.save_pretrained(tmp_path / "arm")
    return tmp_path / "arm"


def test_noise_has_the_change_s_norm_matrix_by_matrix(tiny: Path, arm: Path, tmp_path: Path) -> None:
    perturb(PerturbSettings(seed=1), base=tiny, like=arm, out=tmp_path / "noise")
    base, like, noised = (dict(load_model(p).named_parameters()) for p in (tiny, arm, tmp_path / "noise"))
    moved = []
    for name in base:
        wanted, found = (torch.linalg.vector_norm(m[name] - base[name]).item() for m in (like, noised))
        assert found == pytest.approx(wanted, rel=1e-4)
        moved += [name] * (found > 0)
    assert sorted(moved) == ["lm_head.weight", "model.norm.weight"]
    noise = (noised["lm_head.weight"] - base["lm_head.weight"]).flatten()
    change = (like["lm_head.weight"] - base["lm_head.weight"]).flatten()
    assert abs(torch.cosine_similarity(noise, change, dim=0)) < 0.2
    assert json.loads((tmp_path / "noise" / "noise.json").read_text())["model.embed_tokens.weight"] == 0
    assert load_tokenizer(tmp_path / "noise").get_vocab() == load_tokenizer(tiny).get_vocab()


def test_same_seed_same_bytes(tiny: Path, arm: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        perturb(PerturbSettings(seed=seed), base=tiny, like=arm, out=tmp_path / name)
    a, b, c = (content_digest(tmp_path / name) for name in "abc")
    assert a == b != c


def test_another_architecture_is_refused(tiny: Path, real_model: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nulls\.noise_like: parameter `.*` is .* in base and .* in the arm"):
        perturb(PerturbSettings(), base=tiny, like=real_model, out=tmp_path / "noise")


def test_what_is_saved_does_not_say_how_it_was_loaded(tiny: Path, tmp_path: Path) -> None:
    """transformers notes `local_files_only` when the environment says so: the same model, other bytes."""
    tokenizer = load_tokenizer(tiny)
    tokenizer.init_kwargs["local_files_only"] = True
    save_model(load_model(tiny), tokenizer, tmp_path / "saved")
    assert "local_files_only" not in (tmp_path / "saved" / "tokenizer_config.json").read_text()
