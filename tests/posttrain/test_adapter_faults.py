"""Adapters that cannot be merged are refused, and nothing that an adapter names is loaded or run."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from rlgen.errors import StudyError
from rlgen.models import load_model, load_tokenizer
from rlgen.posttrain.adopt import adopt
from rlgen.study.sections import ExistingBase
from rlgen.study.stages import AdoptSettings
from tests.evaluation.tiny import make_tiny
from tests.posttrain.adapters import adapted_logits, logits, lora_of, make_adapter, of_family, reconfigured, taken


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("lora"))


@pytest.fixture
def copy(lora: Path, tmp_path: Path) -> Path:
    """A copy of the adapter, to be spoilt."""
    return Path(shutil.copytree(lora, tmp_path / "copy"))


def without_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def truncated(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pointer(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def pickled(folder: Path) -> None:
    torch.save(tensors(folder), folder / "adapter_model.bin")
    without_weights(folder)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """What changes an adapter's tensors."""

    def spoil(folder: Path) -> None:
        found = tensors(folder)
        change(found)
        save_file(found, folder / "adapter_model.safetensors")

    return spoil


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def whole_model(folder: Path) -> None:
    load_model(make_tiny(folder / "other")).save_pretrained(folder)


def set_to(**settings: Any) -> Callable[[Path], Path]:
    return lambda folder: reconfigured(folder, **settings)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (without_weights, r"the adapter's weights are not; add adapter_model.safetensors"),
    "truncated": (truncated, r"adapter_model.safetensors cannot be read: .*; copy or download it again"),
    "pointer": (pointer, r"adapter_model.safetensors cannot be read: .*; copy or download it again"),
    "pickled": (pickled, r"pickled \(adapter_model.bin\).*`allow_pickle: true`"),
    "no tensors": (changed(lambda found: found.clear()), "holds no tensor"),
    "a tensor is missing": (changed(lambda found: found.pop(A)), rf"1 of its tensors \(.*{A.removeprefix('base')}"),
    "a surplus tensor": (changed(lambda t: t.update({A.replace(".0.", ".7."): t[A].clone()})), r"layers\.7.*not in"),
    "an unknown tensor": (changed(lambda t: t.update(extra=t[A].clone())), r"\(extra\) is not in the model"),
    "nan": (changed(lambda found: found[A].fill_(torch.nan)), rf"tensor {A} has values that are not finite"),
    "infinity": (changed(lambda found: found[A].view(-1)[:1].fill_(torch.inf)), "not finite"),
    "another width": (
        changed(lambda t: t.update({A: torch.ones(4, 16)})),
        r"q_proj.* \[4, 16\] in the file and \[4, 32\]",
    ),
    "another rank": (set_to(r=8), r"is \[4, \d+\] in the file and \[8, \d+\] in the model"),
    "other modules": (set_to(target_modules=["query"]), r"cannot be put on .*: Target modules .*query.* not found"),
    "no pattern": (set_to(target_modules="("), "cannot be put on"),
    "fewer modules": (set_to(target_modules=["q_proj"]), r"are not in the model"),
    "more modules": (set_to(modules_to_save=["lm_head"]), r"lm_head.* missing"),
    "unbiased": (set_to(bias="wrong"), "cannot be put on"),
    "prompt tuning": (set_to(peft_type="PROMPT_TUNING"), r"`peft_type` 'PROMPT_TUNING' is none of those"),
    "prefix tuning": (set_to(peft_type="PREFIX_TUNING"), r"`peft_type` 'PREFIX_TUNING' is none of those"),
    "a mixture": (set_to(peft_type="XLORA"), r"`peft_type` 'XLORA' is none of those"),
    "an unknown type": (set_to(peft_type="LATER"), r"`peft_type` 'LATER' is none of those"),
    "no type": (set_to(peft_type=None), r"`peft_type` None is none of those"),
    "a list for a type": (set_to(peft_type=["LORA"]), r"`peft_type` \['LORA'\] is none of those"),
    "another task": (set_to(task_type="SEQ_CLS"), r"`task_type` 'SEQ_CLS' is not a causal"),
    "activated by tokens": (set_to(alora_invocation_tokens=[1]), "`alora_invocation_tokens` is set"),
    "blocks repeated": (set_to(layer_replication=[[0, 2], [0, 2]]), "`layer_replication` is set"),
    "random start": (set_to(init_lora_weights="pissa_niter_4"), "`init_lora_weights` 'pissa_niter_4'"),
    "a later PEFT's": (set_to(use_magic=True), "`use_magic` is not known to the installed PEFT"),
    "a text for a number": (set_to(r="four"), "cannot be put on"),
    "no rank": (set_to(r=0), "cannot be put on"),
    "biases that the base lacks": (set_to(lora_bias=True), "missing|cannot be"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
    "no object": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "it holds list, not an object"),
    "no text": (lambda folder: (folder / "adapter_config.json").write_bytes(b"\xff\xfe"), "cannot be read"),
    "a whole model, too": (whole_model, r"holds an adapter .* and the weights of a whole model \(model.safetensors\)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_adapter_is_refused_in_one_sentence(fault: str, base: Path, copy: Path, tmp_path: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(copy)
    with pytest.raises(StudyError, match=message) as refused:
        taken(copy, base, tmp_path / "arm")
    assert str(refused.value).startswith(str(copy))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "arm").exists()
    with pytest.raises(StudyError, match=message):
        taken(base, base, tmp_path / "late", checkpoints=[str(copy)])


def test_pickled_weights_may_be_allowed(base: Path, copy: Path, lora: Path, tmp_path: Path) -> None:
    pickled(copy)
    arm = taken(copy, base, tmp_path / "arm", allow_pickle=True)
    torch.testing.assert_close(logits(load_model(arm)), adapted_logits(base, lora), atol=1e-4, rtol=0)


def test_an_adapter_of_a_deeper_or_wider_base_is_refused(base: Path, lora: Path, tmp_path: Path) -> None:
    smaller = {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    for change, message in ((smaller, "are not in the model"), ({"hidden_size": 16}, r"32\] in the file and .*16\]")):
        config = AutoConfig.from_pretrained(base)
        config.update(change)
        other = of_family(config, base, tmp_path / str(len(change)))
        with pytest.raises(StudyError, match=message):
            taken(lora, other, tmp_path / "arm")


def test_a_base_that_moved_is_only_warned_of(
    base: Path, copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reconfigured(copy, base_model_name_or_path="owner/elsewhere")
    with caplog.at_level(logging.WARNING, "rlgen"):
        taken(copy, base, tmp_path / "arm")
    assert "was trained on owner/elsewhere, and is merged into" in caplog.text


def test_nothing_that_the_configuration_names_is_loaded_or_run(base: Path, copy: Path, tmp_path: Path) -> None:
    expected = adapted_logits(base, copy)
    other = make_adapter(base, tmp_path / "other")
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Trap: pass\n")
    trap = {"base_model_class": "Trap", "parent_library": "trap"}
    reconfigured(copy, auto_mapping=trap, base_model_name_or_path=str(other), revision="0" * 40)
    reconfigured(copy, corda_config={"cache_file": str(tmp_path / "cache"), "covariance_file": str(tmp_path / "c")})
    torch.testing.assert_close(logits(load_model(taken(copy, base, tmp_path / "arm"))), expected, atol=1e-4, rtol=0)
    megatron = {"megatron_config": {"a": 1}, "megatron_core": "trap"}
    with pytest.raises(StudyError, match="`megatron_config` is set"):
        taken(reconfigured(copy, **megatron), base, tmp_path / "refused")
    assert not (tmp_path / "ran").exists()


def test_an_adapter_is_neither_base_nor_teacher(lora: Path, copy: Path, base: Path, tmp_path: Path) -> None:
    for folder in (lora, copy):
        model = ExistingBase(method="existing", path=str(folder))
        with pytest.raises(StudyError, match="can only be an arm"):
            adopt(AdoptSettings(model=model), out=tmp_path / "base")
        with pytest.raises(StudyError, match="holds a PEFT adapter"):
            load_model(folder)
        shutil.copy(base / "config.json", copy)


def test_a_folder_with_the_base_s_configuration_beside_it_is_merged(base: Path, copy: Path, tmp_path: Path) -> None:
    expected = adapted_logits(base, copy)
    shutil.copy(base / "config.json", copy)
    arm = taken(copy, base, tmp_path / "arm")
    torch.testing.assert_close(logits(load_model(arm)), expected, atol=1e-4, rtol=0)


def test_its_own_tokenizer_must_fit_the_base(base: Path, copy: Path, real_model: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(copy)
    assert load_tokenizer(taken(copy, base, tmp_path / "arm")).chat_template == "{{ messages }}"
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(copy)
    with pytest.raises(StudyError, match=r"tokens up to id \d+, and the base's embedding has \d+ rows"):
        taken(copy, base, tmp_path / "larger")
    load_tokenizer(real_model).save_pretrained(copy)
    with pytest.raises(StudyError, match=r"is id \d+ in the base and .* in the adapter's tokenizer"):
        taken(copy, base, tmp_path / "other")


def test_a_resized_embedding_is_refused(base: Path, tmp_path: Path) -> None:
    network = load_model(base)
    network.resize_token_embeddings(network.config.vocab_size + 8)
    network.save_pretrained(tmp_path / "larger")
    folder = make_adapter(tmp_path / "larger", tmp_path / "adapter", lora_of(modules_to_save=["embed_tokens"]))
    with pytest.raises(StudyError, match=r"embed_tokens\S* is \[\d+, 32\] in the file and \[\d+, 32\] in the model"):
        taken(folder, base, tmp_path / "arm")


def test_a_base_that_cannot_be_merged_into_is_refused(base: Path, lora: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "code"))
    (folder / "modeling_own.py").write_text(
        "from transformers import Qwen3Config, Qwen3ForCausalLM\n"
        "class OwnConfig(Qwen3Config):\n    model_type = 'own'\n"
        "class OwnModel(Qwen3ForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((base / "config.json").read_text()) | {"model_type": "own"}
    config["auto_map"] = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    trusted = ExistingBase(method="existing", path=str(folder), trust_remote_code=True)
    adopt(AdoptSettings(model=trusted), out=tmp_path / "base")
    with pytest.raises(StudyError, match="the base runs Python code of its own"):
        taken(lora, tmp_path / "base", tmp_path / "arm")


def test_weights_beyond_the_base_s_range_are_refused(base: Path, tmp_path: Path) -> None:
    load_model(base).half().save_pretrained(tmp_path / "half")
    load_tokenizer(base).save_pretrained(tmp_path / "half")
    folder = make_adapter(tmp_path / "half", tmp_path / "adapter", lora_of(target_modules=["v_proj"]), strength=300.0)
    with pytest.raises(StudyError, match=r"v_proj.weight, merged, is beyond float16's range"):
        taken(folder, tmp_path / "half", tmp_path / "arm")
