"""The char-CNN-RNN: convolutions over characters, then a recurrent network.

Reed et al. 2016, "Learning Deep Representations of Fine-Grained Visual Descriptions" (CVPR), and
the encoders that its code and that of GAN-INT-CLS release; the text of GAN-INT-CLS and StackGAN.
It is trained with images (``text/joint_embedding.py``) and frozen afterwards. M is the number of
characters, L that of recurrent steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import max_pool1d, one_hot, relu

from t2ibench.core.errors import ConfigError
from t2ibench.text.contract import TokenReport
from t2ibench.text.frozen import FrozenTextEncoder

Recurrence = Literal["rnn", "gru"]

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{} "
"""The released code's 70 symbols; the hyphen occurs twice, and the second place counts."""

SYMBOLS = len(ALPHABET)
IDS = {symbol: i for i, symbol in enumerate(ALPHABET)}
NOTHING = SYMBOLS
"""Id of characters that are not in the alphabet, and of the rest of a short caption: no symbol."""

KERNEL, POOL = 4, 3
"""Characters of a convolution; positions of a pooling, and its stride but for the last one's."""

INITIAL_RANGE = 0.08
"""All weights begin uniform in plus and minus this."""

TOLD_SYMBOLS = 5
"""Unknown characters that a report names, the most frequent ones."""


class CharCnnRnn(nn.Module):
    """Convolutions over one-hot characters, a recurrent network, a linear layer.

    Three convolutions of 4 characters with ReLU, each of the first two pooled by 3; then L
    recurrent steps, whose outputs have a mean over time and a linear layer:

        rnn  h_t = relu(W x_t + U h_{t-1})
        gru  z = s(Wz x + Uz h), r = s(Wr x + Ur h), h_t = z tanh(W x + U (r h)) + (1 - z) h

    Before the first step there is no state: h_1 = relu(W x_1), or tanh(W x_1).

    Args:
        max_length: M, 201 in the paper.
        channels: of the three convolutions; the recurrent network is as wide as the last.
        recurrence: ``rnn`` of the CVPR paper, or ``gru`` of the encoder released for birds.
        last_pool: stride of a third pooling by 3 (``HybridCNN``: 2); 0: none
            (``HybridCNNLong``).
        width: D of the output.

    Raises:
        ConfigError: an unknown recurrence, or too few characters for one step.

    Source: Reed et al. 2016 (CVPR), section 4 (char-CNN-RNN); layers of the released code.
    Differs: the linear layer comes before the mean over time, so that steps have features, too.
    """

    def __init__(
        self,
        *,
        max_length: int,
        channels: Sequence[int],
        recurrence: Recurrence,
        last_pool: int,
        width: int,
    ) -> None:
        super().__init__()
        if recurrence not in get_args(Recurrence):
            raise ConfigError(
                f"text.encoder.recurrence={recurrence} is unknown; choose "
                f"{', '.join(get_args(Recurrence))}."
            )
        self.max_length = max_length
        self.last_pool = last_pool
        self.steps = self._count_steps(max_length)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(inner, outer, KERNEL)
            for inner, outer in zip([SYMBOLS, *channels], channels, strict=False)
        )
        hidden = channels[-1]
        gates = 3 if recurrence == "gru" else 1
        self.inputs = nn.Linear(hidden, gates * hidden)
        self.states = nn.Linear(hidden, gates * hidden)
        self.out = nn.Linear(hidden, width)
        self.recurrence = recurrence
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INITIAL_RANGE, INITIAL_RANGE)

    def _count_steps(self, length: int) -> int:
        """Number of recurrent steps of a number of characters.

        Raises:
            ConfigError: there is none.
        """
        steps = length
        for stride in (POOL, POOL, self.last_pool):
            steps -= KERNEL - 1
            if stride:
                steps = (steps - POOL) // stride + 1
            if steps < 1:
                raise ConfigError(
                    f"text.encoder.max_length={length} characters are too few for three "
                    "convolutions; choose 60 or more."
                )
        return steps

    @property
    def stride(self) -> int:
        """Characters from one recurrent step to the next."""
        return POOL * POOL * max(self.last_pool, 1)

    def forward(self, ids: Int[Tensor, "B M"]) -> Float[Tensor, "B L D"]:
        """Features of each step; their mean over all L is a caption's."""
        x = one_hot(ids, SYMBOLS + 1)[..., :SYMBOLS].to(self.out.weight.dtype).transpose(1, 2)
        for convolution, stride in zip(
            self.convolutions, (POOL, POOL, self.last_pool), strict=True
        ):
            x = relu(convolution(x))
            if stride:
                x = max_pool1d(x, POOL, stride)
        steps = self.inputs(x.transpose(1, 2)).unbind(1)
        step = self._gru if self.recurrence == "gru" else self._rnn
        states, state = [], None
        for given in steps:
            state = step(given, state)
            states.append(state)
        return self.out(torch.stack(states, 1))

    def _rnn(self, given: Tensor, state: Tensor | None) -> Tensor:
        return relu(given if state is None else given + self.states(state))

    def _gru(self, given: Tensor, state: Tensor | None) -> Tensor:
        hidden = given.shape[1] // 3
        if state is None:
            return given[:, 2 * hidden :].tanh()
        weight, bias = self.states.weight, self.states.bias
        told = nn.functional.linear(state, weight[: 2 * hidden], bias[: 2 * hidden])
        update, reset = (given[:, : 2 * hidden] + told).sigmoid().chunk(2, dim=1)
        recalled = nn.functional.linear(reset * state, weight[2 * hidden :], bias[2 * hidden :])
        candidate = (given[:, 2 * hidden :] + recalled).tanh()
        return update * candidate + (1 - update) * state


class CharTextEncoder(FrozenTextEncoder):
    """A frozen char-CNN-RNN: tokens are its steps, pooled is their mean.

    A step is a token where its window begins within the caption; the mean is over all steps, as
    in the released code.

    Args:
        max_length, channels, recurrence, last_pool, width: see ``CharCnnRnn``.

    Raises:
        ConfigError: see ``CharCnnRnn``.
    """

    def __init__(
        self,
        *,
        max_length: int,
        channels: Sequence[int],
        recurrence: Recurrence,
        last_pool: int,
        width: int,
    ) -> None:
        layout: dict[str, Any] = {"recurrence": recurrence, "last_pool": last_pool}
        network = CharCnnRnn(max_length=max_length, channels=channels, width=width, **layout)
        super().__init__(
            backbone=network, width=width, max_length=max_length, padding="longest", options=layout
        )

    def tokenize(self, captions: Sequence[str]) -> tuple[Int[Tensor, "B M"], Bool[Tensor, "B L"]]:
        """Ids of characters, cut and filled to ``max_length``, and which steps are tokens."""
        network: Any = self.backbone
        rows, lengths = [], []
        for caption in captions:
            ids = [IDS.get(symbol, NOTHING) for symbol in caption.lower()[: self.max_length]]
            rows.append(ids + [NOTHING] * (self.max_length - len(ids)))
            lengths.append([max(1, len(ids))])
        begins = network.stride * torch.arange(network.steps)
        return torch.tensor(rows), begins < torch.tensor(lengths)

    def contextualise(
        self, ids: Int[Tensor, "B M"], mask: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B D"]]:
        """Runs the network."""
        tokens = self.backbone(ids)
        return tokens, tokens.mean(1)

    @property
    def special_tokens(self) -> int:
        """None: characters alone, see ``FrozenTextEncoder``."""
        return 0

    def token_lengths(self, captions: Sequence[str]) -> tuple[list[int], int]:
        """Characters of each caption, and how many of all are outside the alphabet."""
        unknown = sum(symbol not in IDS for caption in captions for symbol in caption.lower())
        return [len(caption) for caption in captions], unknown

    def token_report(self, captions: Sequence[str]) -> TokenReport:
        """Counts lost characters and names the unknown ones."""
        found = super().token_report(captions)
        unknown = Counter(s for caption in captions for s in caption.lower() if s not in IDS)
        names = tuple(symbol for symbol, _ in unknown.most_common(TOLD_SYMBOLS))
        return TokenReport(**{**vars(found), "unknown_words": names})

    @property
    def tokenizer_state(self) -> str:
        """The alphabet."""
        return ALPHABET
