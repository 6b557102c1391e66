import sys
import time
import types

import pytest
import torch
from torch import nn

from t2ibench.evaluation import cost
from t2ibench.evaluation.cost import (
    count_parameters,
    joules_per_image,
    measure_cost,
    peak_memory_gib,
    resident_bytes,
)
from t2ibench.evaluation.flops import PartFlops, count_flops
from t2ibench.evaluation.timing import Latency


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


def test_peak_memory_sees_what_was_freed_again_once_each():
    def hold():
        first = torch.zeros(2**20)  # 4 MiB
        view = first.view(2, -1).t()[1:]
        first.add_(1)
        second = view + 1  # 2 MiB
        del first, view
        third = torch.zeros(2**18)  # the 4 MiB are free again
        return second, third

    expected = 4 + 4 * second_elements() / 2**20
    assert peak_memory_gib(hold) * 1024 == pytest.approx(expected)
    assert peak_memory_gib(hold, resident=2**30) == pytest.approx(1 + expected / 1024)


def second_elements() -> int:
    return torch.zeros(2**20, device="meta").view(2, -1).t()[1:].numel()


def test_memory_grows_with_the_batch_and_holds_the_weights():
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    weights = sum(p.numel() for p in network.parameters()) * 4
    assert resident_bytes({"a": network, "again": network}) == weights
    with torch.inference_mode():
        small, large = (
            peak_memory_gib(lambda n=n: network(torch.zeros(n, 64)), resident=weights) * 2**30
            for n in (8, 800)
        )
    assert small == pytest.approx(weights + 8 * 4 * (64 + 256 + 256), rel=1e-6)
    assert large == pytest.approx(weights + 800 * 4 * (64 + 256 + 256), rel=1e-6)


def test_flops_of_a_guided_sampler_are_text_plus_steps_plus_decoder():
    text, net, decoder = nn.Linear(10, 20, bias=False), nn.Linear(20, 20), nn.Linear(20, 300)
    steps = 7

    def sample(count):
        prompt = text(torch.zeros(count, 10)).repeat(2, 1)
        for _ in range(steps):
            prompt = prompt + net(prompt)
        return decoder(prompt[:count])

    assert count_flops(lambda: sample(1)) == 2 * (10 * 20 + steps * 2 * 20 * 20 + 20 * 300)


def test_energy_is_unknown_on_a_cpu_and_read_from_the_counter_on_a_gpu(monkeypatch):
    assert joules_per_image(lambda n: None, 4) is None

    class Counter(types.ModuleType):
        NVMLError = RuntimeError
        spent = 0

        def nvmlInit(self) -> None: ...
        def nvmlShutdown(self) -> None: ...

        def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
            return uuid

        def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
            assert handle == "GPU-some"
            return self.spent

    counter = Counter("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", counter)
    monkeypatch.setattr(cost, "synchronise", lambda device: None)
    properties = types.SimpleNamespace(uuid="some")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def sample(count):
        counter.spent += 500 * count
        time.sleep(0.001)

    assert joules_per_image(sample, 8, "cuda", seconds=0.02) == pytest.approx(0.5)


def test_report_of_a_small_sampler():
    network = nn.Linear(64, 192)

    def sample(batch_size):
        return network(torch.zeros(batch_size, 64)).view(batch_size, 3, 8, 8)

    report = measure_cost(sample, {"generator": network}, best_batches=(4, 16), seconds=0)
    fields = report.to_dict()
    assert fields["parameters"] == {"generator": 64 * 192 + 192}
    assert fields["sample_flops_per_image"] == 2 * 64 * 192
    assert fields["best_batch_size"] in (1, 4, 16)
    assert fields["seconds_per_image_best"] <= fields["seconds_per_image_batch_1"]
    assert fields["joules_per_image"] is None
    assert fields["peak_memory_gib"] > (64 * 192 + 192) * 4 / 2**30
    assert fields["hardware"]["type"] == "cpu" and fields["hardware"]["threads"] >= 1
    assert fields["latency"]["calls"] == 5 <= fields["throughput"]["calls"]
    assert fields["latency"]["iqr"] >= 0 and "busy" in fields["latency"]
    assert fields["latency"]["median"] == pytest.approx(fields["seconds_per_image_batch_1"])


def test_times_of_the_sampling_itself_are_not_measured_again():
    drawn = []
    quick = Latency(16, 1e-9, 0.0, 7)
    report = measure_cost(drawn.append, {}, best_batches=(16,), seconds=0, known=quick)
    assert report.throughput == quick and report.to_dict()["best_batch_size"] == 16
    assert drawn.count(16) == 1, "once for the memory"
    slow = Latency(16, 10.0, 0.0, 7)
    assert measure_cost(drawn.append, {}, best_batches=(), known=slow).throughput.batch_size == 1


def test_a_time_of_a_busy_machine_is_taken_anew(monkeypatch):
    """Also one that would be the best: a set is drawn once, and its time would mark all scores."""
    asked = []
    quiet = {1: Latency(1, 2.0, 0.0, 5), 16: Latency(16, 1.0, 0.0, 5)}
    monkeypatch.setattr(
        cost, "time_sampling", lambda sample, size, *_, **__: asked.append(size) or quiet[size]
    )
    busy = Latency(16, 0.5, 0.4, 7, "the machine was busy: the spread is 80% of the median")
    report = measure_cost(lambda count: None, {}, best_batches=(16,), known=busy)
    assert asked == [1, 16] and report.throughput == quiet[16] and not report.to_dict()["busy"]
    again = measure_cost(lambda count: None, {}, best_batches=(16,), known=Latency(16, 0.5, 0, 7))
    assert again.throughput.median == 0.5


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)


@pytest.mark.parametrize("twice", [False, True])
def test_flops_by_part_are_the_products_of_each_part(twice):
    """A linear layer: 2 N a b forward, as much again for each gradient that is asked for."""
    model, x = Two(), torch.randn(5, 8)
    with PartFlops(dict(model.named_children())) as counter:
        hidden = model.first(x)
        loss = model.second(model.second.weight.new_ones(5, 16) if twice else hidden).sum()
        loss = loss + (model.second(hidden).sum() if twice else 0)
        loss.backward()
        loss.detach() * (torch.ones(3, 2) @ torch.ones(2, 6)).sum()
    first, second = 2 * 5 * 8 * 16, 2 * 5 * 16 * 4
    # The first layer's input needs no gradient, nor does the constant one of the second.
    wanted = {"first": 2 * first, "second": 3 * second + 2 * second * twice, "other": 2 * 3 * 2 * 6}
    assert counter.by_part == wanted
    assert counter.get_total_flops() == sum(wanted.values())
