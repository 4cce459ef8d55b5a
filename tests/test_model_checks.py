"""What is wrong with a model is told in one line that names the file and the tensor; a healthy one has no fault."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner, Result

from rlgen.cli import app
from rlgen.data.miniature import build_tokenizer
from rlgen.errors import StudyError
from rlgen.models import load_config, load_model, load_tokenizer
from rlgen.posttrain.adopt import adopt
from rlgen.study.sections import ExistingArm, ExistingBase
from rlgen.study.stages import AdoptSettings
from tests.architectures import MIXING, build, save
from tests.evaluation.tiny import make_tiny

Change = Callable[[Path], Any]
Q = "model.layers.0.self_attn.q_proj.weight"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copied(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def check(folder: Path | str, *options: str) -> Result:
    return CliRunner().invoke(app, ["model", "check", str(folder), *options])


def faults(result: Result) -> list[str]:
    return [line.removeprefix("fault  ") for line in result.stdout.splitlines() if line.startswith("fault")]


def weights(change: Callable[[dict[str, Tensor]], Any]) -> Change:
    """A change of the tensors, in place."""

    def applied(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return applied


def values(name: str, **given: Any) -> Change:
    """A change of a JSON file's values."""

    def applied(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | given))

    return applied


def content(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data)


def cut(name: str, length: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def sharded(change: Change) -> Change:
    """A change of a model that is stored in several files."""

    def applied(folder: Path) -> None:
        model = load_model(folder)
        (folder / WEIGHTS).unlink()
        model.save_pretrained(folder, max_shard_size="20KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
        change(folder)

    return applied


def first_shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[0]


def without_first_tensor(folder: Path) -> None:
    tensors = load_file(first_shard(folder))
    del tensors[min(tensors)]
    save_file(tensors, first_shard(folder), metadata={"format": "pt"})


def add_to_second_shard(folder: Path) -> None:
    first, second = sorted(folder.glob("model-*.safetensors"))[:2]
    save_file(load_file(second) | load_file(first), second, metadata={"format": "pt"})


UNLOADABLE: dict[str, tuple[Change, str]] = {
    "a missing tensor": (weights(lambda t: t.pop(Q)), rf"weights complete: `{Q}` is missing, and would be filled"),
    "a missing norm": (weights(lambda t: t.pop("model.norm.weight")), "`model.norm.weight` is missing"),
    "a missing layer": (
        weights(lambda t: [t.pop(name) for name in list(t) if ".layers.1." in name]),
        r"`model.layers.1.\S+`, `\S+`, `\S+` and 8 more tensors are missing",
    ),
    "no output layer": (weights(lambda t: t.pop("lm_head.weight")), "`lm_head.weight` is missing"),
    "another shape": (
        weights(lambda t: t.update({Q: torch.zeros(3, 5)})),
        rf"`{Q}` has the shape \[3, 5\] in the weights and \[32, 32\] by config.json",
    ),
    "integers": (
        weights(lambda t: t.update({Q: t[Q].to(torch.int8)})),
        rf"model.safetensors: `{Q}` is of the type I8, and weights are floating-point",
    ),
    "scaled numbers without their scale": (
        weights(lambda t: t.update({Q: t[Q].to(torch.float8_e4m3fn)})),
        rf"`{Q}` is of the type F8_E4M3",
    ),
    "a bias that the configuration does not know": (
        weights(lambda t: t.update({Q.replace("weight", "bias"): torch.ones(32)})),
        r"`model.layers.0.self_attn.q_proj.bias` is in the weights and not in a Qwen3ForCausalLM",
    ),
    "adapters beside the weights": (
        weights(lambda t: t.update({Q.replace("weight", "lora_A.weight"): torch.ones(2, 32)})),
        r"`model.layers.0.self_attn.q_proj.lora_A.weight` is in the weights and not",
    ),
    "fewer layers by config.json": (
        values("config.json", num_hidden_layers=1, layer_types=None),
        r"`model.layers.1\S+ and 8 more tensors are in the weights and not in a Qwen3ForCausalLM",
    ),
    "more layers by config.json": (
        values("config.json", num_hidden_layers=3, layer_types=None),
        r"`model.layers.2.\S+`, .* are missing",
    ),
    "another width": (values("config.json", hidden_size=48), r"\(and 20 more\) has the shape .* by config.json"),
    "another vocabulary": (values("config.json", vocab_size=500), r"has the shape \[47, 32\] .* and \[500, 32\]"),
    "cut weights": (cut(WEIGHTS, 80_000), "model.safetensors: truncated or damaged, 80,000 bytes"),
    "a cut header": (cut(WEIGHTS, 60), "model.safetensors: truncated or damaged, 60 bytes"),
    "weights that are too long": (
        lambda folder: (folder / WEIGHTS).open("ab").write(b"more"),
        "model.safetensors: truncated or damaged",
    ),
    "garbage": (content(WEIGHTS, os.urandom(4000)), "model.safetensors: truncated or damaged, 4,000 bytes"),
    "empty weights": (content(WEIGHTS, b""), "model.safetensors: the file is empty"),
    "a pointer": (content(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no weights there"),
    "no tensors": (lambda folder: save_file({}, folder / WEIGHTS), "model.safetensors: holds no tensor"),
    "a broken link": (
        lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).symlink_to(folder / "gone")),
        "model.safetensors: no file can be read there",
    ),
    "a missing shard": (
        sharded(lambda folder: first_shard(folder).unlink()),
        r"model-00001-of-\d+.safetensors: no such file, and model.safetensors.index.json says that it holds `",
    ),
    "a cut shard": (
        sharded(lambda folder: cut(first_shard(folder).name, 500)(folder)),
        r"model-00001-of-\d+.safetensors: truncated or damaged, 500 bytes",
    ),
    "a tensor that its shard lacks": (
        sharded(without_first_tensor),
        rf"model-00001-of-\d+.safetensors: `\S+` is missing, though {INDEX} says otherwise",
    ),
    "a tensor in two shards": (sharded(add_to_second_shard), r"model-00002-of-\d+.safetensors: `.* in model-00001-of"),
    "an index that is no JSON": (sharded(content(INDEX, b"{")), rf"{INDEX}: no JSON"),
    "an index without a map": (sharded(content(INDEX, b"{}")), rf"{INDEX}: has no `weight_map`"),
    "a configuration that is empty": (content("config.json", b""), "configuration: config.json: the file is empty"),
    "a configuration that is no JSON": (content("config.json", b"{no"), r"configuration: config.json: no JSON \(Exp"),
    "a configuration in Latin-1": (content("config.json", b'{"a": "\xe9"}'), "configuration: config.json: no JSON"),
    "a configuration that is a list": (content("config.json", b"[1]"), "config.json: holds a list"),
    "a configuration of nothing": (content("config.json", b"{}"), "Should have a `model_type` key"),
    "an unknown architecture": (values("config.json", model_type="nobody"), "configuration: .*nobody"),
    "generation settings that are no JSON": (
        content("generation_config.json", b"x"),
        "generation_config.json: no JSON",
    ),
    "a tokenizer that is empty": (content("tokenizer.json", b""), "tokenizer loads: tokenizer.json: the file is empty"),
    "a tokenizer that is cut": (cut("tokenizer.json", 300), "tokenizer loads: tokenizer.json: no JSON"),
    "a tokenizer of nothing": (content("tokenizer.json", b"{}"), "tokenizer loads: no tokenizer can be loaded"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer loads: .*tokenizer"),
    "tokenizer settings that are no JSON": (content("tokenizer_config.json", b"]"), "tokenizer_config.json: no JSON"),
}


def load_everything(folder: Path) -> None:
    for load in (load_config, load_model, load_tokenizer):
        load(folder)


@pytest.mark.parametrize("case", UNLOADABLE)
def test_a_model_that_does_not_load_is_told_in_one_line(case: str, copied: Path, tmp_path: Path) -> None:
    change, message = UNLOADABLE[case]
    change(copied)
    result = check(copied)
    assert result.exit_code == 1
    (fault,) = faults(result)
    assert re.search(message, fault), fault
    with pytest.raises(StudyError) as refused:
        load_everything(copied)
    assert str(refused.value).startswith(f"{copied}: ")
    assert "\n" not in str(refused.value)
    with pytest.raises(StudyError, match=re.escape(str(copied))):
        adopt(AdoptSettings(model=ExistingBase(method="existing", path=str(copied))), out=tmp_path / "base")
    assert not (tmp_path / "base").exists()


def set_nan(tensors: dict[str, Tensor]) -> None:
    tensors[Q][1, 2] = float("nan")
    tensors["lm_head.weight"][0, 0] = float("inf")


def zero(tensors: dict[str, Tensor]) -> None:
    for tensor in tensors.values():
        tensor.zero_()


def add_token(folder: Path, **tokens: str) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens(tokens)
    tokenizer.save_pretrained(folder)


def add_word(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<far>"])
    tokenizer.save_pretrained(folder)


def tie(folder: Path) -> None:
    values("config.json", tie_word_embeddings=True)(folder)


WRONG: dict[str, tuple[Change, str]] = {
    "numbers that are not finite": (
        weights(set_nan),
        rf"weights finite: NaN or infinite numbers in `{Q}`, `lm_head.weight`; train or convert",
    ),
    "zeros": (weights(zero), "logits finite: all tokens have the same logit"),
    "padding beyond the embedding": (
        lambda folder: add_token(folder, pad_token="[PAD]"),
        r"tokens within the embedding: the tokenizer's pad token, '\[PAD\]', has id 47 and the model has embeddings",
    ),
    "an end token beyond the embedding": (
        lambda folder: add_token(folder, eos_token="<end>"),
        "the tokenizer's eos token, '<end>', has id 47",
    ),
    "a word beyond the embedding": (add_word, r"the tokenizer knows '<far>' \(id 47\), and the model has embeddings"),
    "padding beyond the embedding in generation settings": (
        values("generation_config.json", pad_token_id=900),
        "generation_config.json: `pad_token_id` is 900",
    ),
    "an output layer that is not the embedding": (tie, "`tie_word_embeddings: true`, and the weights hold an output"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_model_that_loads_and_is_wrong_is_told_in_one_line(case: str, copied: Path, tmp_path: Path) -> None:
    change, message = WRONG[case]
    change(copied)
    result = check(copied)
    assert result.exit_code == 1
    (fault,) = faults(result)
    assert re.search(message, fault), fault
    with pytest.raises(StudyError, match=message.partition(": ")[2] or message):
        adopt(AdoptSettings(model=ExistingBase(method="existing", path=str(copied))), out=tmp_path / "base")


def test_a_fault_of_a_checkpoint_stops_the_adoption(tiny: Path, copied: Path, tmp_path: Path) -> None:
    weights(lambda tensors: tensors.pop(Q))(copied)
    arm = ExistingArm(name="dpo", method="existing", path=str(tiny), checkpoints=[str(tiny), str(copied)])
    with pytest.raises(StudyError, match=rf"{copied}: `{Q}` is missing"):
        adopt(AdoptSettings(model=arm), out=tmp_path / "dpo", base=tiny)
    assert not (tmp_path / "dpo").exists()


def test_every_fault_has_its_line(copied: Path) -> None:
    weights(set_nan)(copied)
    add_token(copied, pad_token="[PAD]")
    assert [fault.partition(":")[0] for fault in faults(check(copied))] == [
        "weights finite",
        "tokens within the embedding",
    ]
    content("tokenizer.json", b"")(copied)
    content(WEIGHTS, b"")(copied)
    assert [fault.partition(":")[0] for fault in faults(check(copied))] == ["weights complete", "tokenizer loads"]


SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def llama(**given: Any) -> LlamaForCausalLM:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **heads, **given))


HEALTHY = {
    "Qwen3": lambda folder: shutil.copytree(make_tiny(folder / "of"), folder, dirs_exist_ok=True),
    "Llama, tied": lambda folder: save(llama(tie_word_embeddings=True), folder),
    "Llama, untied": lambda folder: save(llama(tie_word_embeddings=False), folder),
    "Llama, bfloat16": lambda folder: save(llama().to(torch.bfloat16), folder),
    "Llama, float16": lambda folder: save(llama().to(torch.float16), folder),
    "GPT-2": lambda folder: save(
        GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64)), folder
    ),
    "a model of few positions": lambda folder: save(
        GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=8)), folder
    ),
    "several files": lambda folder: (save(llama(), folder), sharded(lambda _: None)(folder)),
}


@pytest.mark.parametrize("case", HEALTHY)
def test_a_healthy_model_has_no_fault(case: str, tmp_path: Path) -> None:
    HEALTHY[case](tmp_path / "model")
    result = check(tmp_path / "model")
    assert result.exit_code == 0, result.stdout
    assert faults(result) == []
    assert result.stdout.splitlines()[-1] == f"{tmp_path / 'model'}: 12 checks, 0 faults"


def test_a_real_model_has_no_fault(real_model: Path) -> None:
    assert check(real_model).exit_code == 0


def test_tensors_that_were_saved_once_and_are_computed_today_are_no_fault(tmp_path: Path) -> None:
    save(llama(), tmp_path / "llama")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4), "v_head.summary.weight": torch.ones(1, 32)}
    weights(lambda tensors: tensors.update(extra))(tmp_path / "llama")
    HEALTHY["GPT-2"](tmp_path / "gpt2")
    masks = {"transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool)}
    weights(lambda tensors: tensors.update(masks))(tmp_path / "gpt2")
    for name in ("llama", "gpt2"):
        assert faults(check(tmp_path / name)) == []


def test_pickled_weights_need_consent(copied: Path) -> None:
    torch.save(load_model(copied).state_dict(), copied / "pytorch_model.bin")
    (copied / WEIGHTS).unlink()
    assert check(copied, "--allow-pickle").exit_code == 0
    (fault,) = faults(check(copied))
    assert "unpickling pytorch_model.bin can run any code" in fault
    (copied / "pytorch_model.bin").write_bytes((copied / "pytorch_model.bin").read_bytes()[:3000])
    (fault,) = faults(check(copied, "--allow-pickle"))
    assert fault.startswith("weights complete: pytorch_model.bin: cannot be read, 3,000 bytes")


def test_a_model_that_mixes_documents_is_a_fault_only_if_the_study_keeps_them_apart(tmp_path: Path) -> None:
    folder = save(build("bloom", MIXING["bloom"]), tmp_path / "model")
    (fault,) = faults(check(folder))
    assert "set `corpus.separate_documents: false`" in fault
    result = check(folder, "--no-separate-documents")
    assert result.exit_code == 0
    assert "note   packed documents apart" in result.stdout
    settings = AdoptSettings(model=ExistingBase(method="existing", path=str(folder)))
    with pytest.raises(StudyError, match=r"lets the documents of a row see one another"):
        adopt(settings, out=tmp_path / "apart", separate_documents=True)
    adopt(settings, out=tmp_path / "together")


@pytest.mark.parametrize("name", ["no/such/folder", "", ".hidden folder", "~nobody/x/y"])
def test_what_is_no_model_has_one_line(name: str) -> None:
    result = check(name)
    assert isinstance(result.exception, StudyError)
    assert "no such folder; name a model's folder or its id on the hub" in str(result.exception)


def test_a_folder_without_a_model_has_one_line(tmp_path: Path) -> None:
    result = check(tmp_path)
    assert result.exit_code == 1
    (fault,) = faults(result)
    assert "config.json is missing" in fault


def test_a_folder_with_an_adapter_alone_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (fault,) = faults(check(tmp_path))
    assert "holds a PEFT adapter" in fault


def test_a_study_s_model_is_followed_and_its_consent_is_not(copied: Path, tmp_path: Path) -> None:
    adopt(AdoptSettings(model=ExistingBase(method="existing", path=str(copied))), out=tmp_path / "base")
    assert check(tmp_path / "base").exit_code == 0
    (copied / "configuration_own.py").write_text(
        f"from transformers import Qwen3Config\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "class OwnConfig(Qwen3Config):\n    model_type = 'own'\n"
    )
    values("config.json", model_type="own", auto_map={"AutoConfig": "configuration_own.OwnConfig"})(copied)
    values("reference.json", trust_remote_code=True, allow_pickle=True)(tmp_path / "base")
    (fault,) = faults(check(tmp_path / "base"))
    assert "give `--trust-remote-code`" in fault
    assert not (tmp_path / "ran").exists()
    (tmp_path / "base" / "reference.json").write_text("{")
    assert "reference.json: no reference to a model" in str(check(tmp_path / "base").exception)


def test_the_tokens_of_a_vocabulary_that_is_smaller_than_the_embedding_are_right(tmp_path: Path) -> None:
    assert len(build_tokenizer()) < 64
    assert check(save(llama(), tmp_path / "model")).exit_code == 0
