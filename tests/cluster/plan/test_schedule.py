"""The simulated run: its length, its longest chain, and what is on disk."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rlgen.cluster.plan.schedule import Schedule, simulate
from tests.cluster.made_up import dag, job

NOTHING = dict.fromkeys(range(100), 0.0)


def test_a_chain_takes_the_sum_and_is_its_own_longest_chain() -> None:
    found = simulate(dag([job("a"), job("b", (0,)), job("c", (1,))]), {0: 1.0, 1: 2.0, 2: 4.0}, NOTHING, NOTHING)
    assert (found.seconds, found.critical, found.critical_seconds) == (7.0, (0, 1, 2), 7.0)


def test_jobs_beside_one_another_take_the_longest_if_there_is_room() -> None:
    jobs = [job("a"), job("a"), job("a"), job("end", (0, 1, 2))]
    seconds = {0: 5.0, 1: 3.0, 2: 2.0, 3: 1.0}
    assert simulate(dag(jobs, cores=8), seconds, NOTHING, NOTHING).seconds == 6.0
    assert simulate(dag(jobs, slots=1), seconds, NOTHING, NOTHING).seconds == 11.0
    assert simulate(dag(jobs, cores=2), seconds, NOTHING, NOTHING).seconds == 6.0  # 5 beside 3 + 2


def test_gpus_at_a_time_are_counted_apart_from_jobs() -> None:
    jobs = [job("a", gpus=2), job("a", gpus=2), job("b")]
    seconds = dict.fromkeys(range(3), 1.0)
    assert simulate(dag(jobs, slots=9, gpus=2), seconds, NOTHING, NOTHING).seconds == 2.0
    assert simulate(dag(jobs, slots=9, gpus=4), seconds, NOTHING, NOTHING).seconds == 1.0


def test_a_job_that_asks_for_more_than_there_is_runs_alone() -> None:
    jobs = [job("a", threads=64), job("b")]
    assert simulate(dag(jobs, cores=2), {0: 1.0, 1: 1.0}, NOTHING, NOTHING).seconds == 2.0


def test_what_is_done_takes_nothing() -> None:
    found = simulate(dag([job("a", needed=False, reason=""), job("b", (0,))]), {0: 9.0, 1: 1.0}, NOTHING, NOTHING)
    assert (found.seconds, found.critical) == (1.0, (1,))


def test_temporary_output_leaves_the_disk_when_its_last_reader_has_ended() -> None:
    jobs = [job("dump", temporary=True), job("fit", (0,)), job("report", (1,))]
    seconds, written = dict.fromkeys(range(3), 1.0), {0: 10.0, 1: 1.0, 2: 7.0}
    assert simulate(dag(jobs), seconds, written, NOTHING).peak_bytes == 11.0
    kept = [job("dump"), *jobs[1:]]
    assert simulate(dag(kept), seconds, written, NOTHING).peak_bytes == 18.0


def test_scratch_counts_while_its_job_runs() -> None:
    found = simulate(dag([job("a"), job("b", (0,))]), {0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}, {0: 5.0, 1: 2.0})
    assert found.peak_bytes == 6.0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_run_lies_between_its_longest_chain_and_all_jobs_in_a_row(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    jobs = [
        job("a", tuple(sorted(data.draw(st.sets(st.integers(0, place - 1), max_size=3)))) if place else ())
        for place in range(count)
    ]
    seconds = {place: data.draw(st.floats(0.1, 9)) for place in range(count)}
    found: Schedule = simulate(dag(jobs, slots=data.draw(st.integers(1, 4))), seconds, NOTHING, NOTHING)
    assert found.critical_seconds - 1e-9 <= found.seconds <= sum(seconds.values()) + 1e-9
    assert set(found.ended) == set(range(count))
    for place, each in enumerate(jobs):
        assert all(found.ended[needs] <= found.ended[place] - seconds[place] + 1e-9 for needs in each.needs)
