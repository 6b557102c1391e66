import copy

import pytest
import torch
from torch import nn

from t2ibench.core.types import Score
from t2ibench.evaluation.leakage import find_leaks, flag, sketches
from t2ibench.metrics.dual_encoder import DualEncoder
from t2ibench.metrics.extractors.efficientnet import EfficientNetLite0


def tower(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(512), nn.Linear(32, 16))


@pytest.fixture(scope="module")
def judge():
    return DualEncoder.load("shapes-clip-v1")


def tuned(network, steps, rate):
    """The network trained further on something else, by AdamW."""
    network = copy.deepcopy(network).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), rate)
    torch.manual_seed(1)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            parameters = torch.cat([p.flatten() for p in network.parameters()])
            # A gradient for every weight, as a whole loss would give, without its minutes.
            (parameters * torch.randn_like(parameters)).sum().backward()
            optimizer.step()
    return network


def test_unrelated_networks_share_nothing():
    assert find_leaks({"text_encoder": tower(0)}, {"clip": tower(1)}) == []


def test_constant_tensors_are_no_evidence():
    assert sketches(nn.LayerNorm(4096)) == {}


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_tower_cut_out_of_the_evaluator_is_found_in_any_precision(precision):
    text, image = tower(0), tower(1)
    evaluator = nn.ModuleDict({"visual": image, "transformer": text})
    part = copy.deepcopy(text).to(precision)
    (leak,) = find_leaks({"text_encoder": part, "generator": tower(3)}, {"clip@16": evaluator})
    assert (leak.part, leak.network) == ("text_encoder", "clip@16")
    assert (leak.shared_tensors, leak.tuned_tensors) == (2, 0)


def test_a_judge_in_bfloat16_is_found_whole(judge):
    (leak,) = find_leaks({"clip": copy.deepcopy(judge).bfloat16()}, {"judge": judge})
    matrices = sum(p.ndim > 1 and p.numel() >= 256 for p in judge.parameters())
    assert leak.shared_tensors >= matrices and leak.tuned_tensors == 0


def test_a_fine_tuned_judge_is_found_by_closeness(judge):
    moved = tuned(judge, steps=20, rate=1e-3)
    (leak,) = find_leaks({"perceptual_loss": moved}, {"judge": judge})
    assert leak.tuned_tensors > 20
    assert f"{leak.tuned_tensors} of them fine-tuned, with judge" in str(leak)


def test_a_fine_tuned_backbone_is_found_inside_a_larger_part(judge):
    part = nn.ModuleList([tuned(judge, steps=20, rate=1e-3), *(tower(seed) for seed in range(40))])
    (leak,) = find_leaks({"discriminator": part}, {"judge": judge})
    assert leak.tuned_tensors > 20


def test_networks_of_one_seed_that_were_trained_apart_are_not_one(judge):
    """The two shipped encoders began with the same random weights, and some are still close."""
    other = DualEncoder.load("emoji_styles-clip-v1")
    assert find_leaks({"clip": other}, {"judge": judge}) == []
    network = EfficientNetLite0(size=64)
    assert find_leaks({"backbone": network}, {"a": judge, "b": other}) == []


def test_the_flag_reaches_only_that_networks_scores():
    leaks = find_leaks({"text_encoder": tower(0)}, {"clip@16": tower(0)})
    scores = {
        key: Score(1.0, 5, 0.5, 1.5, key, note)
        for key, note in [("clip_score[clip@16|x]", "old"), ("fd[lite0@1280|x]", "")]
    }
    flagged = flag(scores, leaks)
    assert flagged["fd[lite0@1280|x]"] == scores["fd[lite0@1280|x]"]
    note = flagged["clip_score[clip@16|x]"].note
    assert note.startswith("old; leak: ") and "text_encoder" in note and "2 weight tensors" in note
