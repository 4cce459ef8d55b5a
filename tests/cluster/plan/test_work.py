"""The cost model's counts, where they are known."""

from dataclasses import replace

import pytest

from rlgen.activations import loader
from rlgen.cluster.plan import causal, reading
from rlgen.cluster.plan.language import Answers, Language
from rlgen.cluster.plan.work import CPU, Work, machine_of
from rlgen.crosscoder import diagnostics, splice
from rlgen.errors import StudyError
from rlgen.interventions import damage
from rlgen.posttrain.memory import Shape

SMALL = Shape(layers=2, width=10, vocabulary=100, parameters=2 * 500 + 1000, block=500, cached=40)
H100 = machine_of("h100")


def test_reading_takes_two_operations_a_weight_and_what_attention_adds() -> None:
    assert Language(SMALL, H100).read(7, 0).flops == 7 * 2 * 1000
    assert Language(SMALL, H100).read(7, 3).flops == 7 * (2 * 1000 + 4 * 2 * 10 * 3)
    assert Language(SMALL, H100).read(7, 0, logits=1).flops == 7 * 2000 + 2 * 100 * 10
    assert Language(SMALL, H100).read(7, 0, depth=0.5).flops == 7 * 1000


def test_learning_takes_three_times_reading_and_four_times_where_activations_are_computed_again() -> None:
    of = Language(SMALL, H100)
    read = of.read(60, 10, logits=60).flops
    assert of.learn(3, 20, steps=1, passes=1, again=False).flops == 3 * read
    assert of.learn(3, 20, steps=1, passes=1, again=True).flops == 4 * read
    assert of.learn(3, 20, steps=5, passes=1, again=True).moved == 5 * 28 * SMALL.parameters


def test_whoever_writes_in_fixed_batches_waits_for_the_longest_answer() -> None:
    of, answers = Language(SMALL, H100), Answers(count=8, prompt=0, length=10, longest=40)
    fixed = of.write(answers, batch=4, room=0)
    assert fixed.moved >= 2 * 40 * of.weights  # two batches, forty tokens each
    following = of.write(answers, batch=None, room=1e12)
    assert following.passes == pytest.approx(40)  # all eight side by side, until the longest ends
    assert following.flops == fixed.flops
    many = of.write(replace(answers, count=8000), batch=None, room=1e12)
    assert many.passes == pytest.approx(8000 * 10 / 256)  # one takes the place of another


def test_answers_side_by_side_are_limited_by_the_room_for_keys_and_values() -> None:
    of, answers = Language(SMALL, H100), Answers(count=100, prompt=5, length=10, longest=10)
    one = SMALL.cached * H100.weight_bytes * 15
    held = of.write(answers, batch=None, room=4 * one)
    assert held.memory == of.weights + 4 * one


def test_a_job_takes_products_or_its_files_whichever_are_longer() -> None:
    busy = CPU.seconds(Work(flops=CPU.flops * 10, read=CPU.disk), 1)
    assert busy == CPU.start + 10
    assert CPU.seconds(Work(flops=CPU.flops * 10, read=CPU.disk * 30), 2) == CPU.start + 30
    assert CPU.seconds(Work(flops=CPU.flops * 10), 2) == CPU.start + 5


def test_what_stages_read_is_what_they_say() -> None:
    """The plan repeats their constants, which cannot be read without importing torch."""
    assert (reading.MEASURED, reading.SPLICED) == (diagnostics.TOKENS, splice.TOKENS)
    assert reading.BUFFER == loader.BUFFER_BYTES
    assert (causal.DAMAGE_TOKENS, causal.DAMAGE_SETS) == (damage.TOKENS, 2 + damage.DRAWS)


def test_a_gpu_that_is_not_known_is_refused_with_those_that_are() -> None:
    assert machine_of("a100-80gb").name == "A100-80GB"
    with pytest.raises(StudyError, match="--gpu: given 'V100'; use one of: RTX 4090, A100-40GB"):
        machine_of("V100")
