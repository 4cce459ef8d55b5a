"""What training takes on a GPU."""

from pathlib import Path

import pytest

from rlgen.models import load_model
from rlgen.posttrain.memory import KNOWN, Shape, memory, shape_of, table
from rlgen.study.sections import GrpoArm, Lora, Rollouts, SftArm
from tests.evaluation.tiny import make_tiny

BILLION = Shape(layers=10, width=1000, vocabulary=100_000, parameters=10**9, block=9 * 10**7, cached=20_000)


def sft(**settings: object) -> SftArm:
    return SftArm.model_validate({"name": "sft", "method": "sft", "micro_batch_size": 1, **settings})


def test_parameters_are_counted_as_the_model_has_them(tmp_path: Path, real_model: Path) -> None:
    for folder in (make_tiny(tmp_path), real_model):
        model = load_model(folder)
        counted = sum(
            p.numel() for name, p in model.named_parameters() if "q_norm" not in name and "k_norm" not in name
        )
        found = shape_of(str(folder))
        assert found is not None
        assert found.parameters == counted


def test_published_sizes_of_the_known_bases() -> None:
    billions = {name: round(shape.parameters / 1e9, 2) for name, shape in KNOWN.items()}
    assert billions == {
        "Qwen/Qwen3-0.6B-Base": 0.6,
        "Qwen/Qwen3-4B-Base": 4.02,
        "Qwen/Qwen3-4B-Instruct-2507": 4.02,
        "Qwen/Qwen3-32B": 32.76,
        "Qwen/Qwen2.5-7B": 7.62,
        "meta-llama/Llama-3.1-8B-Instruct": 8.03,
    }
    assert shape_of("owner/unknown") is None


@pytest.mark.parametrize(
    ("settings", "states"),
    [({}, 18), ({"zero": 2}, 2 + 16 / 4), ({"zero": 3}, 18 / 4), ({"zero": 2, "offload": "optimizer"}, 2 + 4 / 4)],
)
def test_states_are_those_of_the_zero_paper(settings: dict[str, object], states: float) -> None:
    parts = memory(sft(**settings), BILLION, gpus=4, capacity=80)
    assert sum(parts.values()) - parts["activations"] == pytest.approx(states)


def test_what_an_arm_asks_for_beside_them() -> None:
    plain = memory(sft(zero=3, max_length=4096), BILLION, 4, 80)
    assert plain["activations"] == pytest.approx(4096 * 1000 * 54 / 1e9)
    logits = 2 * 2 * 1025 * 100_000 / 1e9
    assert memory(sft(zero=3, kl_every=5), BILLION, 4, 80)["KL"] == pytest.approx(2 + logits)
    adapters = memory(sft(zero=3, kl_every=5, lora=Lora()), BILLION, 4, 80)
    assert adapters["KL"] == pytest.approx(logits)
    assert adapters["optimiser"] < 0.05
    rl = GrpoArm(name="rl", method="grpo", zero=3, rollouts=Rollouts(engine="vllm", gpu_memory=0.4))
    assert memory(rl, BILLION, 4, 80)["vLLM"] == pytest.approx(32)


def test_it_says_whether_that_fits() -> None:
    large = Shape(layers=10, width=1000, vocabulary=100_000, parameters=15 * 10**9, block=148 * 10**7, cached=20_000)
    lines = table([sft(zero=3, max_length=1024)], large, {"sft": 8})
    assert [line.split(" GB, ")[1].split(" (")[0] for line in lines] == ["does not fit", "tight", "fits", "fits"]


def test_model_states_are_deepspeeds_own_estimate() -> None:
    stage3 = pytest.importorskip("deepspeed.runtime.zero.stage3")
    _cpu, gpu, _largest = stage3.estimate_zero3_model_states_mem_needs(
        total_params=10**9, largest_layer_params=0, num_gpus_per_node=4, cpu_offload=False, cpu_offload_params=False
    )
    parts = memory(sft(zero=3), BILLION, gpus=4, capacity=80)
    assert gpu / 1e9 == pytest.approx(sum(parts[name] for name in ("weights", "gradients", "optimiser")))
