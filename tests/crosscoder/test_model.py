"""The crosscoder as its users have it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlgen.crosscoder.model import Crosscoder, CrosscoderConfig
from rlgen.errors import StudyError


def random_crosscoder(sparsity: str = "batch_topk") -> Crosscoder:
    torch.manual_seed(0)
    crosscoder = Crosscoder(CrosscoderConfig(["base", "rl", "base"], 4, 10, sparsity, 2, layer=3))
    with torch.no_grad():
        for parameter in crosscoder.parameters():
            parameter.copy_(torch.randn_like(parameter))
        crosscoder.mean.copy_(torch.randn(3, 4))
        crosscoder.scale.copy_(torch.tensor([0.5, 1.0, 2.0]))
        crosscoder.threshold.fill_(8.0)
    return crosscoder.requires_grad_(False)


@pytest.mark.parametrize("sparsity", ["batch_topk", "relu_l1", "topk", "jumprelu"])
def test_encode_and_decode_are_the_methods(sparsity: str) -> None:
    coder, acts_BMD = random_crosscoder(sparsity), torch.randn(20, 3, 4)
    x = [(acts_BMD[:, m] - coder.mean[m]) * coder.scale[m] for m in range(3)]
    codes_BF = torch.relu(sum(x[m] @ coder.W_enc[:, m].T for m in range(3)) + coder.b_enc)
    if sparsity != "relu_l1":
        scores_BF = codes_BF * sum(coder.W_dec[:, m].norm(dim=-1) for m in range(3))
        lowest = {
            "batch_topk": torch.tensor(8.0),
            "topk": scores_BF.sort(descending=True).values[:, 1:2].clamp(min=1e-9),
            "jumprelu": coder.log_threshold.exp() if sparsity == "jumprelu" else None,
        }[sparsity]
        assert lowest is not None
        codes_BF = torch.where(scores_BF >= lowest, codes_BF, 0)
        assert 0 < (codes_BF > 0).float().mean() < 0.7
    assert torch.allclose(coder.encode(acts_BMD), codes_BF, atol=1e-5)
    decoded_BMD = coder.decode(codes_BF)
    for m in range(3):
        expected = (codes_BF @ coder.W_dec[:, m] + coder.b_dec[m]) / coder.scale[m] + coder.mean[m]
        assert torch.allclose(decoded_BMD[:, m], expected, atol=1e-4)
        without = coder.decode(torch.zeros_like(codes_BF))[:, m]
        assert torch.allclose(codes_BF @ coder.decoder_rows(m), decoded_BMD[:, m] - without, atol=1e-4)


def test_swap_readout_puts_one_model_into_every_slot() -> None:
    coder, acts_BD = random_crosscoder(), torch.randn(20, 4)
    normalised_BD = (acts_BD - coder.mean[1]) * coder.scale[1]
    codes_BF = coder.encode_normalised(torch.stack([normalised_BD] * 3, dim=1))
    assert torch.allclose(coder.swap_readout(acts_BD, "rl"), codes_BF)


def test_decoder_projection_gives_back_what_is_along_a_row_alone() -> None:
    """Of rows at right angles to one another it is the code that was decoded, of any sign; of a row that is 0, 0."""
    coder = random_crosscoder()
    with torch.no_grad():
        coder.W_dec.zero_()
        coder.W_dec[:3, 1] = torch.diag(torch.tensor([0.5, 2.0, 3.0, 1.0]))[:3]
    codes_BF = torch.randn(20, coder.config.features)
    acts_BD = coder.decode(codes_BF)[:, 1] + torch.tensor([0.0, 0, 0, 7]) / coder.scale[1]  # the rest is off all rows
    found_BF = coder.decoder_projection(acts_BD, "rl")
    assert torch.allclose(found_BF[:, :3], codes_BF[:, :3], atol=1e-4)
    assert not found_BF[:, 3:].any()


def test_decoder_projection_counts_what_two_rows_share_twice() -> None:
    coder = random_crosscoder()
    with torch.no_grad():
        coder.W_dec[1] = 2 * coder.W_dec[0]
    found_BF = coder.decoder_projection(torch.randn(20, 4), "rl")
    assert torch.allclose(found_BF[:, 0], 2 * found_BF[:, 1], atol=1e-5)


def test_outliers_are_those_of_a_raw_norm_beyond_their_slots_limit() -> None:
    """As in the loader: the mean and the scale have no say in it."""
    coder, acts_BTD = random_crosscoder(), torch.randn(6, 5, 4)
    assert coder.ordinary(1e6 * acts_BTD, "rl").all()  # no limit was set
    coder.limit_M.copy_(torch.tensor([1.0, 2.0, 3.0]))
    for slot, limit in enumerate((1.0, 2.0, 3.0)):
        ordinary_BT = coder.ordinary(acts_BTD, slot)
        assert torch.equal(ordinary_BT, acts_BTD.square().sum(dim=-1).sqrt() <= limit)
        assert 0 < ordinary_BT.float().mean() < 1


def test_one_saved_before_there_were_limits_has_none(tmp_path: Path) -> None:
    coder = random_crosscoder()
    coder.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["limit_M"]
    save_file(weights, tmp_path / "model.safetensors")
    assert Crosscoder.from_pretrained(tmp_path).limit_M.isinf().all()


def test_slots_are_named() -> None:
    coder = random_crosscoder()
    assert coder.config.slots == ["base", "rl", "base#2"]
    assert [coder.slot(name) for name in ("base", "rl", "base#2", 1)] == [0, 1, 2, 1]
    with pytest.raises(StudyError, match="crosscoder over base, rl, base#2: no model `sft`"):
        coder.decoder_rows("sft")


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    coder, acts_BMD = random_crosscoder(), torch.randn(20, 3, 4)
    coder.save_pretrained(tmp_path / "a")
    loaded = Crosscoder.from_pretrained(tmp_path / "a")
    assert loaded.config == coder.config
    assert torch.equal(loaded.encode(acts_BMD), coder.encode(acts_BMD))
    loaded.save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(StudyError, match="no crosscoder there"):
        Crosscoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("sparsity", ["batch_topk", "relu_l1", "jumprelu"])
def test_folded_it_is_the_same_function_of_raw_activations(sparsity: str) -> None:
    coder, acts_BMD = random_crosscoder(sparsity).double(), torch.randn(50, 3, 4).double()
    codes_BF, folded = coder.encode(acts_BMD), coder.folded().double()
    pre_BF = acts_BMD.flatten(1) @ folded.W_enc.flatten(1).T + folded.b_enc
    assert torch.allclose(torch.where(codes_BF > 0, pre_BF, 0), codes_BF)
    assert torch.allclose(folded.encode(acts_BMD), codes_BF)
    assert torch.allclose((codes_BF @ folded.W_dec.flatten(1)).view(50, 3, 4) + folded.b_dec, coder.decode(codes_BF))
    assert torch.allclose(folded.decoder_rows("rl"), coder.decoder_rows("rl"))
    with pytest.raises(StudyError, match="cannot be folded"):
        random_crosscoder("topk").folded()


def in_the_hubs_cache(cache: Path, coder: Crosscoder, repository: str) -> None:
    """As if it had been downloaded from there."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    commit = "0123456789012345678901234567890123456789"
    coder.save_pretrained(folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)


def test_it_is_loaded_from_the_hub_by_name(tmp_path: Path) -> None:
    coder = random_crosscoder()
    coder.save_pretrained(tmp_path / "own")
    in_the_hubs_cache(tmp_path / "hub", coder, "somebody/base-rl")
    code = (
        "from rlgen.crosscoder.model import Crosscoder; from rlgen.errors import StudyError\n"
        "Crosscoder.from_pretrained('somebody/base-rl').save_pretrained('again')\n"
        "for call in (lambda: Crosscoder.from_pretrained('somebody/else'),"
        " lambda: Crosscoder.from_pretrained('own').push_to_hub('somebody/new')):\n"
        "    try: call()\n"
        "    except StudyError as error: print(error)"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    given = [sys.executable, "-c", code]
    found = subprocess.run(
        given, capture_output=True, text=True, check=True, timeout=120, cwd=tmp_path, env=environment
    )
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "own/model.safetensors").read_bytes()
    missing, refused = found.stdout.strip().splitlines()
    assert "somebody/else: no such folder, nor a crosscoder on the hub" in missing
    assert "somebody/new: cannot be uploaded" in refused


def test_it_starts_with_a_tied_encoder_and_rows_of_norm_008() -> None:
    coder = Crosscoder(CrosscoderConfig(["base", "rl"], 16, 32, "relu_l1", 2, layer=1))
    coder.initialise(seed=0)
    assert torch.allclose(coder.W_dec.norm(dim=-1), torch.tensor(0.08))
    assert torch.equal(coder.W_enc, coder.W_dec)


def test_it_loads_without_the_training_code(tmp_path: Path) -> None:
    random_crosscoder().save_pretrained(tmp_path)
    code = (
        "import sys; from rlgen.crosscoder.model import Crosscoder; "
        f"Crosscoder.from_pretrained({str(tmp_path)!r}); "
        "print([m for m in sys.modules if m in ('transformers', 'zarr', 'rlgen.crosscoder.train', 'rlgen.stage')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "[]"
