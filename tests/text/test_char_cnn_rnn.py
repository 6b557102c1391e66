"""The char-CNN-RNN and the joint embedding that trains it."""

from functools import partial

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.nn.functional import one_hot

from t2ibench.core.errors import ConfigError
from t2ibench.core.types import Batch
from t2ibench.text.char_cnn_rnn import ALPHABET, IDS, NOTHING, CharCnnRnn, CharTextEncoder
from t2ibench.text.joint_embedding import ImageTower, JointEmbedding, joint_embedding_loss

SMALL = {"max_length": 201, "channels": [6, 8, 10], "recurrence": "gru", "last_pool": 0}
CAPTIONS = ["a red ring", "a small blue moon on grey", "a pink cross", "ring"]


def encoder(width=12, **changes):
    torch.manual_seed(0)
    return CharTextEncoder(**(SMALL | {"width": width} | changes))


@pytest.mark.parametrize(
    "hidden, width, count", [(256, 1024, 1_814_144), (512, 1024, 2_994_560), (256, 1536, 1_945_728)]
)
def test_parameters_are_the_released_codes(hidden, width, count):
    with torch.device("meta"):
        network = CharCnnRnn(
            max_length=201, channels=[384, 512, hidden], recurrence="rnn", last_pool=2, width=width
        )
    assert sum(p.numel() for p in network.parameters()) == count
    assert network.steps == 8


def test_the_encoder_released_for_birds_has_18_steps():
    assert encoder().backbone.steps == 18


def test_the_second_hyphen_is_the_one():
    assert len(ALPHABET) == 70 and len(IDS) == 69
    assert IDS["a"] == 0 and IDS["-"] == ALPHABET.rindex("-") and IDS[" "] == 69


@pytest.mark.parametrize("recurrence, last_pool", [("gru", 0), ("rnn", 2)])
def test_steps_are_those_of_the_equations(recurrence, last_pool):
    """One character, one state at a time, by the equations of the docstring."""
    network = encoder(recurrence=recurrence, last_pool=last_pool).backbone
    ids = torch.randint(0, NOTHING + 1, (1, 201))
    x = one_hot(ids[0], NOTHING + 1)[:, :NOTHING].float()
    for convolution, stride in zip(network.convolutions, (3, 3, last_pool), strict=True):
        kernel = convolution.weight  # (out, in, 4)
        windows = [x[i : i + 4].T for i in range(len(x) - 3)]
        rows = [(kernel * w).sum((1, 2)) + convolution.bias for w in windows]
        x = torch.stack(rows).relu()
        if stride:
            x = torch.stack([x[i : i + 3].amax(0) for i in range(0, len(x) - 2, stride)])
    state, found = None, []
    w, u = network.inputs, network.states
    for row in x:
        given, told = w(row), None if state is None else u(state)
        if recurrence == "rnn":
            state = (given if told is None else given + told).relu()
        elif told is None:
            state = given[20:].tanh()
        else:
            z, r = (given[:20] + told[:20]).sigmoid().split(10)
            recalled = u.weight[20:] @ (r * state) + u.bias[20:]
            state = z * (given[20:] + recalled).tanh() + (1 - z) * state
        found.append(network.out(state))
    torch.testing.assert_close(network(ids)[0], torch.stack(found), rtol=1e-4, atol=1e-6)


def test_tokens_are_the_steps_within_the_caption():
    found = encoder().encode(["", "a red ring", "x" * 201, "x" * 300])
    assert found.mask.sum(1).tolist() == [1, 2, 18, 18]
    assert (found.tokens[~found.mask] == 0).all()
    torch.testing.assert_close(found.pooled[2], found.tokens[2].mean(0))
    torch.testing.assert_close(found.pooled[2], found.pooled[3])


def test_a_caption_is_encoded_alike_in_every_batch():
    text = encoder()
    together, alone = text.encode(CAPTIONS), text.encode(CAPTIONS[1:2])
    torch.testing.assert_close(alone.pooled[0], together.pooled[1])
    torch.testing.assert_close(text.encode(["A RED ring"]).pooled, together.pooled[:1])
    assert not list(text.parameters()) and not together.pooled.requires_grad


def test_what_is_lost_is_told():
    report = encoder(max_length=60).token_report(["a red ring", "ü" * 61])
    assert report.truncated == (1,) and report.longest == 61
    assert report.unknown == pytest.approx(61 / 71) and report.unknown_words == ("ü",)


@pytest.mark.parametrize(
    "changes, named", [({"max_length": 40}, "max_length=40"), ({"recurrence": "lstm"}, "lstm")]
)
def test_impossible_layouts_are_refused(changes, named):
    with pytest.raises((ConfigError, TypeCheckError), match=named):
        encoder(**changes)


def test_the_loss_is_the_released_codes_loop():
    torch.manual_seed(0)
    image, text = torch.randn(5, 3), torch.randn(5, 3)

    def one_way(rows, columns):
        total = 0.0
        for i in range(5):
            scores = columns @ rows[i]
            total += sum(max(0.0, float(s - scores[i] + 1)) for s in scores) - 1.0
        return total / 25

    found = joint_embedding_loss(image, text, ~torch.eye(5, dtype=torch.bool))
    assert found.item() == pytest.approx(one_way(image, text) + one_way(text, image), rel=1e-5)
    none = joint_embedding_loss(image, text, torch.zeros(5, 5, dtype=torch.bool))
    assert none == 0


def test_equal_captions_are_no_wrong_pairs_and_both_networks_learn():
    text = encoder()
    module = JointEmbedding(
        encoder=text, image=partial(ImageTower, channels=4), optimizer=torch.optim.RMSprop
    )
    optimizer = module.configure_optimizers()
    module.optimizers = lambda: optimizer
    module.manual_backward = lambda loss: loss.backward()
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    batch = Batch(torch.rand(4, 3, 16, 16) * 2 - 1, CAPTIONS, torch.arange(4))
    assert module.training_step(batch, 0)["loss"] > 0
    assert not [n for n, p in module.named_parameters() if torch.equal(p, before[n])]
    assert {n.split(".")[0] for n in module.sampling_parameters()} == {"text"}
    same = Batch(batch.image, ["a red ring"] * 4, batch.index)
    assert module.training_step(same, 1)["loss"] == 0
