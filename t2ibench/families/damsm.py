r"""DAMSM: do the words of a caption and the regions of an image belong together?

Xu et al. 2018, "AttnGAN", section 3.2: the deep attentional multimodal similarity model. A text
encoder and an image encoder are trained together so that, within a batch, each image matches its
own caption, word by word and as a whole; frozen, they train AttnGAN's generator and judge it.

N is the number of regions, L of words, B of images, T of captions. With regions v and words e,

    s_ij = e_i . v_j          normalised over the words:    s'_ij = softmax_i(s_ij)
    a_ij = softmax_j(gamma1 s'_ij)        c_i = sum_j a_ij v_j                       (eq. 7-9)
    R(image, caption) = log sum_i exp(gamma2 cos(c_i, e_i))                          (eq. 10)
    P(caption | image) = softmax over the batch of gamma3 R                          (eq. 11)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from t2ibench.core.errors import ConfigError
from t2ibench.core.frozen import FrozenHolder
from t2ibench.core.hashing import hash_json, hash_tensors
from t2ibench.core.ranks import gathered, greatest, own, together, world_size
from t2ibench.core.types import Images, TextFeatures
from t2ibench.nn.regions import Seen
from t2ibench.text.contract import TextEncoder, TokenReport
from t2ibench.text.damsm import DAMSMText

SMALLEST_NORM = 1e-8
"""Least product of norms in a cosine (authors' code)."""


class Matched(NamedTuple):
    """Losses of a batch, each the sum of both directions.

    Attributes:
        words: of words and regions.
        sentence: of whole captions and images.
    """

    words: Float[Tensor, ""]
    sentence: Float[Tensor, ""]


class DAMSM(nn.Module):
    """Text encoder and image encoder with one space, and the losses that make them so.

    Args:
        vocabulary: words of the training captions.
        width: D of words, sentences, regions and images.
        embedding_width: width of the text encoder's word vectors.
        max_length: most words of a caption.
        dropout: of word vectors in training.
        image: factory of the image encoder, called with ``width``; None: the text encoder alone,
            of a published generator that only samples.
        gamma1: how sharply a word attends to regions.
        gamma2: how much its best words count for a caption.
        gamma3: inverse temperature of the posterior over the batch.

    Source: Xu et al. 2018 (AttnGAN), section 3.2.
    Differs: none with ``InceptionRegions``.
    """

    def __init__(
        self,
        *,
        vocabulary: Sequence[str],
        width: int,
        embedding_width: int,
        max_length: int,
        dropout: float,
        image: Callable[..., nn.Module] | None,
        gamma1: float,
        gamma2: float,
        gamma3: float,
    ) -> None:
        super().__init__()
        self.text = DAMSMText(
            vocabulary=vocabulary,
            width=width,
            embedding_width=embedding_width,
            max_length=max_length,
            dropout=dropout,
        )
        self.image = None if image is None else image(width=width)
        self.gammas = (gamma1, gamma2, gamma3)

    def see(self, images: Images) -> Seen:
        """Regions and wholes of images in [-1, 1].

        Raises:
            ConfigError: there is no image encoder.
        """
        if self.image is None:
            raise ConfigError(
                "parts.damsm.network.image=null: a DAMSM without an image encoder trains nothing; "
                "import it with image_encoder….pth, or choose damsm=conv."
            )
        return self.image(images)

    def losses(
        self, seen: Seen, text: TextFeatures, same: Bool[Tensor, "B B"] | None = None
    ) -> Matched:
        """Both losses of images with their captions, in float32 at least.

        Args:
            seen: (B, N, D) regions and (B, D) wholes.
            text: of the images' captions in order.
            same: True where image i and caption j belong together though i is not j.
        """
        with torch.autocast(text.tokens.device.type, enabled=False):
            wide = torch.promote_types(seen.whole.dtype, torch.float32)
            seen = Seen(seen.regions.to(wide), seen.whole.to(wide))
            text = text.to(wide)
            words = words_loss(seen.regions, text.tokens, text.mask, *self.gammas, same)
            return Matched(words, sentence_loss(seen.whole, text.pooled, self.gammas[2], same))


class FrozenDAMSM(FrozenHolder):
    """A trained DAMSM whose weights are nobody else's, and whose losses train a generator.

    Args:
        network: a trained ``DAMSM``; frozen and put in eval mode; the caller's object.
    """

    def __init__(self, network: DAMSM) -> None:
        super().__init__()
        self.hold("network", network)

    @property
    def network(self) -> DAMSM:
        """The frozen networks; their parameters and FLOPs are counted with the generator's."""
        return self._frozen["network"]

    @property
    def fingerprint(self) -> str:
        """Content hash of weights, vocabulary and gammas."""
        network = self.network
        weights = hash_tensors(network.state_dict().items())
        return hash_json([weights, network.text.fingerprint, list(network.gammas)])

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> TextFeatures:
        """Words and sentences as DAMSM has them, on its device."""
        return self.network.text.encode(captions)

    def losses(self, images: Images, text: TextFeatures, captions: Sequence[str]) -> Matched:
        """Losses of images in [-1, 1] with the features of their captions.

        Gradients flow to the images. Captions that are alike are no negatives of one another.

        Raises:
            ConfigError: there is no image encoder.
        """
        if together():
            captions = all_captions(captions)
        same = alike(captions)
        seen = self.network.see(images)
        return self.network.losses(seen, text, None if same is None else same.to(images.device))

    def is_text_of(self, encoder: TextEncoder) -> bool:
        """True where an encoder's features are this DAMSM's own."""
        return isinstance(encoder, DAMSMFeatures) and encoder.damsm is self


class DAMSMFeatures(FrozenHolder, TextEncoder):
    """The frozen text tower of a DAMSM as a generator's text encoder (``text=damsm``).

    Args:
        damsm: the DAMSM that the generator is trained against.

    Source: Xu et al. 2018 (AttnGAN), section 3.2: the text encoder is fixed when the generator is
        trained.
    Differs: none.
    """

    trainable = False

    def __init__(self, damsm: FrozenDAMSM) -> None:
        super().__init__()
        # Beside the registry: it is the generator's own child as well.
        self.__dict__["damsm"] = damsm
        self.hold("text", damsm.network.text)
        self.width = damsm.network.text.width
        self.max_length = damsm.network.text.max_length

    @property
    def _text(self) -> DAMSMText:
        return self._frozen["text"]

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Features of captions."""
        return self._text.encode(captions)

    @torch.no_grad()
    def null(self, count: int) -> TextFeatures:
        """The empty caption."""
        return self._text.null(count)

    @property
    def fingerprint(self) -> str:
        """Content hash of weights and vocabulary."""
        return self._text.fingerprint

    def token_report(self, captions: Sequence[str]) -> TokenReport:
        """Report of what is cut or unknown."""
        return self._text.token_report(captions)

    def token_words(self, caption: str) -> list[str]:
        """The words that are encoded."""
        return self._text.token_words(caption)


def word_scores(
    regions: Float[Tensor, "B N D"],
    words: Float[Tensor, "T L D"],
    mask: Bool[Tensor, "T L"],
    gamma1: float,
    gamma2: float,
) -> Float[Tensor, "B T"]:
    """Score R of every image with every caption, see the module.

    Source: Xu et al. 2018 (AttnGAN), eq. 7-10.
    Differs: no power 1 / gamma2 outside of the logarithm, as the authors' code has none.
    """
    weights, context = attended(regions, words, mask, gamma1)
    norms = context.norm(dim=-1) * words.norm(dim=-1)
    cosine = (context * words).sum(-1) / norms.clamp(min=SMALLEST_NORM)
    return (gamma2 * cosine).masked_fill(~mask, -math.inf).logsumexp(-1)


def attended(
    regions: Float[Tensor, "B N D"],
    words: Float[Tensor, "T L D"],
    mask: Bool[Tensor, "T L"],
    gamma1: float,
) -> tuple[Float[Tensor, "B T L N"], Float[Tensor, "B T L D"]]:
    """Weights of regions for each word of each caption, and the contexts that they make.

    Source: Xu et al. 2018 (AttnGAN), eq. 7-9.
    Differs: none.
    """
    captions, length, width = words.shape
    similarity = regions @ words.reshape(captions * length, width).T
    similarity = similarity.view(*similarity.shape[:2], captions, length)
    over_words = similarity.masked_fill(~mask, -math.inf).softmax(-1)
    weights = (gamma1 * over_words.permute(0, 2, 3, 1)).softmax(-1)
    flat = weights.reshape(len(regions), captions * length, -1)
    return weights, (flat @ regions).view(len(regions), captions, length, width)


def words_loss(
    regions: Float[Tensor, "B N D"],
    words: Float[Tensor, "B L D"],
    mask: Bool[Tensor, "B L"],
    gamma1: float,
    gamma2: float,
    gamma3: float,
    same: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """Loss of words and regions: -log P(caption | image) - log P(image | caption).

    Source: Xu et al. 2018 (AttnGAN), eq. 11-13.
    Differs: none.
    """
    length = greatest(words.shape[1])
    missing = length - words.shape[1]
    words = nn.functional.pad(words, (0, 0, 0, missing))
    mask = nn.functional.pad(mask, (0, missing))
    scores = word_scores(regions, gathered(words), gathered(mask), gamma1, gamma2)
    return both_ways(gamma3 * scores, same)


def sentence_loss(
    whole: Float[Tensor, "B D"],
    sentence: Float[Tensor, "B D"],
    gamma3: float,
    same: Bool[Tensor, "B B"] | None = None,
) -> Float[Tensor, ""]:
    """Loss of whole captions and images: the same with R = cos(image, caption).

    Source: Xu et al. 2018 (AttnGAN), section 3.2, after eq. 13.
    Differs: none.
    """
    sentence = gathered(sentence)
    norms = whole.norm(dim=1)[:, None] * sentence.norm(dim=1)
    return both_ways(gamma3 * whole @ sentence.T / norms.clamp(min=SMALLEST_NORM), same)


def both_ways(
    scores: Float[Tensor, "b B"], same: Bool[Tensor, "B B"] | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy of each image over all captions, plus that of each caption over all images.

    Args:
        scores: of this rank's images with the captions of all ranks.
        same: of all ranks: pairs that are left out of every sum.
    """
    count = len(scores)
    mine = own(torch.arange(count * world_size(), device=scores.device), count)
    everyone = gathered(scores)
    if same is not None:
        everyone = everyone.masked_fill(same, -math.inf)
    by_image, by_caption = own(everyone, count), own(everyone.T, count)
    return cross_entropy(by_image, mine) + cross_entropy(by_caption, mine)


def alike(captions: Sequence[str]) -> Bool[Tensor, "B B"] | None:
    """True where two of the captions are the same text at different places; None where none are."""
    if len(set(captions)) == len(captions):
        return None
    numbers = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    ids = torch.tensor([numbers[caption] for caption in captions], device="cpu")
    return (ids[:, None] == ids).fill_diagonal_(False)


def all_captions(captions: Sequence[str]) -> list[str]:
    """The captions of all ranks in their order."""
    found: list[list[str]] = [[] for _ in range(world_size())]
    torch.distributed.all_gather_object(found, list(captions))
    return [caption for some in found for caption in some]
