import mmap
import time

import pytest
import torch
from torch import nn

from t2ibench.evaluation.cost import (
    count_flops,
    count_parameters,
    measure_cost,
    peak_memory_gib,
    time_sampling,
)


def test_flops_of_known_operations():
    a, b = torch.zeros(7, 11), torch.zeros(11, 13)
    assert count_flops(lambda: a @ b) == 2 * 7 * 11 * 13
    convolution = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    assert count_flops(lambda: convolution(torch.zeros(2, 3, 8, 8))) == 2 * 2 * 64 * 5 * 27
    q = torch.zeros(1, 2, 6, 4)
    attention = nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attention(q, q, q)) == 2 * 2 * (2 * 6 * 6 * 4)


def test_shared_parameters_count_once():
    shared = nn.Linear(4, 4, bias=False)
    parts = {"generator": nn.Sequential(shared, nn.Linear(4, 2)), "text": nn.Sequential(shared)}
    assert count_parameters(parts) == {"generator": 26, "text": 0}


def test_latency_is_per_image_and_leaves_out_the_warm_up():
    calls = []

    def sample(batch_size):
        time.sleep(0.2 if not calls else 0.01)
        calls.append(batch_size)

    latency = time_sampling(sample, 4, calls=3)
    assert calls == [4, 4, 4, 4] and latency.calls == 3
    assert 0.01 / 4 <= latency.median < 0.2 / 4


def test_the_time_limit_stops_slow_samplers():
    assert time_sampling(lambda n: time.sleep(0.05), 1, calls=50, seconds=0.01).calls == 2


def test_peak_memory_sees_what_was_freed_again():
    def hold():
        # Straight from the system: an allocator may hand out memory that the process still holds.
        with mmap.mmap(-1, 2**26) as block:
            block.write(b"1" * 2**26)
            time.sleep(0.1)

    assert 0.05 < peak_memory_gib(hold) < 0.5


def test_report_of_a_small_sampler():
    network = nn.Linear(64, 192)

    def sample(batch_size):
        return network(torch.zeros(batch_size, 64)).view(batch_size, 3, 8, 8)

    report = measure_cost(sample, {"generator": network}, best_batches=(4, 16), calls=3)
    fields = report.to_dict()
    assert fields["parameters"] == {"generator": 64 * 192 + 192}
    assert fields["sample_flops_per_image"] == 2 * 64 * 192
    assert fields["best_batch_size"] in (1, 4, 16)
    assert fields["seconds_per_image_best"] <= fields["seconds_per_image_batch_1"]
    assert fields["hardware"]["type"] == "cpu" and fields["hardware"]["threads"] >= 1
    assert fields["latency"]["median"] == pytest.approx(fields["seconds_per_image_batch_1"])
