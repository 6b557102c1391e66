import torch
from torch import nn

from t2ibench.core.types import Score
from t2ibench.evaluation.leakage import find_leaks, flag, signature


def tower(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(512), nn.Linear(32, 16))


def test_unrelated_networks_share_nothing():
    assert find_leaks({"text_encoder": tower(0)}, {"clip": tower(1)}) == []


def test_constant_tensors_are_no_evidence():
    assert signature(nn.LayerNorm(4096)) == frozenset()


def test_a_tower_cut_out_of_the_evaluator_is_found_even_in_half_precision():
    text, image = tower(0), tower(1)
    evaluator = nn.ModuleDict({"visual": image, "transformer": text})
    copy = tower(2)
    copy.load_state_dict(text.state_dict())
    (leak,) = find_leaks(
        {"text_encoder": copy.half(), "generator": tower(3)}, {"clip@16": evaluator}
    )
    assert (leak.part, leak.network, leak.shared_tensors) == ("text_encoder", "clip@16", 2)


def test_stored_signatures_work_like_networks():
    network = tower(0)
    (leak,) = find_leaks({"perceptual_loss": sorted(signature(network))}, {"x": network})
    assert leak.part == "perceptual_loss"


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
