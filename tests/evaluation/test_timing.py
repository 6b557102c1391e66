import os
import subprocess
import sys
import time

import pytest

from t2ibench.evaluation.timing import THREADS, Call, Latency, time_sampling


def test_latency_is_per_image_and_leaves_out_the_warm_up():
    calls = []

    def sample(batch_size):
        time.sleep(0.2 if not calls else 0.01)
        calls.append(batch_size)

    latency = time_sampling(sample, 4, seconds=0)
    assert calls == [4] * 6 and latency.calls == 5
    assert 0.01 / 4 <= latency.median < 0.2 / 4


def test_slow_samplers_are_timed_five_times_and_quick_ones_as_the_seconds_allow():
    """Two calls of a slow sampler have no spread that could tell a busy machine."""
    assert time_sampling(lambda n: time.sleep(0.05), 1, seconds=0.01).calls == 5
    assert time_sampling(lambda n: time.sleep(0.001), 1, seconds=5).calls == 25


def calls(*seconds, waited: float | None = 0.0):
    return [Call(each, waited) for each in seconds]


def test_the_spread_and_the_waiting_say_that_a_machine_was_busy():
    quiet = Latency.of(2, calls(1.0, 1.01, 1.02, 1.03, 1.04))
    assert (quiet.median, quiet.iqr, quiet.busy) == (0.51, pytest.approx(0.01), "")
    uneven = Latency.of(2, calls(1.0, 1.0, 1.4, 1.5, 1.6))
    assert uneven.busy == "the machine was busy: the spread is 36% of the median"
    evenly_slow = Latency.of(1, calls(5, 5, 5, 5, 5, waited=0.5))
    assert evenly_slow.busy.endswith("threads waited for a processor 50% of their time")
    assert Latency.of(1, calls(5, 5, 5, 5, 5, waited=None)).busy == ""


@pytest.mark.skipif(not THREADS.exists(), reason="only Linux tells how long threads wait")
def test_a_machine_that_others_use_is_noticed():
    """As many spinning processes on this one's processor take three quarters of it evenly."""
    spinner = "while True: pass"
    allowed = os.sched_getaffinity(0)
    others = []
    try:
        os.sched_setaffinity(0, {min(allowed)})
        others = [subprocess.Popen([sys.executable, "-c", spinner]) for _ in range(3)]

        def sample(batch_size):
            end = time.thread_time() + 0.2
            while time.thread_time() < end:
                pass

        assert "threads waited for a processor" in time_sampling(sample, 1, seconds=0).busy
    finally:
        os.sched_setaffinity(0, allowed)
        for process in others:
            process.kill()
            process.wait()
