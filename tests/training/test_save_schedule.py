"""Checkpoints on schedule take at most 2 % of the elapsed time; a resume verifies a file once."""

import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.painter import OPTIONS, make_split, train

from t2ibench.runs.clock import Budget
from t2ibench.training.checkpoint import ASSUMED_BYTES_A_SECOND, SHARE, SaveSchedule


class Time:
    """A clock that is set forward."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def saves(every, cost, steps, step_seconds):
    """Times and total cost of saves in a training of steps."""
    clock = Time()
    schedule, times = SaveSchedule(every, clock), []
    for _ in range(steps):
        clock.now += step_seconds
        if schedule.due(lambda: int(cost * ASSUMED_BYTES_A_SECOND)):
            with schedule.saving():
                clock.now += cost
            times.append(clock.now - 100)
    return times, schedule.spent, clock.now - 100


@given(st.floats(0.01, 60), st.floats(1, 100), st.floats(0.1, 20))
def test_the_share_of_the_time_is_kept_whatever_a_save_costs(cost, every, step_seconds):
    times, spent, elapsed = saves(every, cost, 2000, step_seconds)
    assert spent <= SHARE * elapsed + 1e-6
    if elapsed > 2 * (every + step_seconds + cost / SHARE):
        assert times, "it saves once there is time for it"


def test_a_cheap_save_keeps_the_interval():
    times, _, _ = saves(20, 0.1, 1000, 1)
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert len(times) > 40 and max(gaps) < 22


def test_731_megabytes_at_10_seconds_are_saved_every_500():
    """What was measured before: a save of 10 s each 20 s, a third of the time."""
    times, spent, elapsed = saves(20, 10, 3600, 1)
    assert 5 <= len(times) <= 8 and spent / elapsed <= SHARE


def test_a_save_of_unknown_speed_is_charged_when_it_is_known():
    clock = Time()
    schedule = SaveSchedule(20, clock)
    clock.now += 21
    assert schedule.due(lambda: 1000)
    with schedule.saving():
        clock.now += 10
    clock.now += 400
    assert not schedule.due(lambda: 1000)
    clock.now += 600
    assert schedule.due(lambda: 1000)


@pytest.mark.parametrize("seconds", [0.0])
def test_zero_saves_whenever_asked(seconds):
    assert len(saves(seconds, 5, 20, 1)[0]) == 20


def test_a_resume_verifies_the_checkpoint_once(tmp_path, monkeypatch):
    from dataclasses import replace

    verified = []
    check = zipfile.ZipFile.testzip

    def counted(archive):
        verified.append(archive.filename)
        return check(archive)

    def stopped(batches):
        for number, batch in enumerate(batches):
            if number == 3:
                raise ProcessLookupError("killed")
            yield batch

    split, budget = make_split(), Budget("images", 64)
    options = replace(OPTIONS, checkpoint_every_seconds=0.0)
    with pytest.raises(ProcessLookupError):
        train(split, tmp_path, budget, "cut", options=options, each_batch=stopped)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", counted)
    train(split, tmp_path, budget, "cut")
    assert len(verified) == 1
