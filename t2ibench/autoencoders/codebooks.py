"""Quantisers with a codebook: learned by gradients, a moving average, or on the unit sphere."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize, one_hot

from t2ibench.autoencoders.contract import Latents
from t2ibench.autoencoders.quantizer import (
    GradientEstimator,
    Quantised,
    Quantizer,
    as_vectors,
    passed,
)
from t2ibench.core.errors import ConfigError
from t2ibench.core.ranks import gathered, summed

LAPLACE_EPSILON = 1e-5
"""Smoothing of the cluster sizes (van den Oord et al. 2017, appendix A.1)."""


def nearest_code(
    vectors: Float[Tensor, "M C"], codebook: Float[Tensor, "V C"]
) -> Int[Tensor, " M"]:
    """Index of the nearest code of each vector: argmin_j |e_j|^2 - 2 z . e_j.

    |z|^2 is the same for every code and is left out. In float32 under autocast too: bfloat16
    gives neighbouring codes the same distance.

    Source: van den Oord et al. 2017 (VQ-VAE), eq. 1.
    Differs: none.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        codes = codebook.float()
        distance = torch.addmm(codes.square().sum(1), vectors.float(), codes.T, alpha=-2)
        return distance.argmin(1)


def commitment_loss(latents: Tensor, quantised: Tensor) -> Float[Tensor, ""]:
    """Commitment loss, mean ||z - sg[e]||^2: pulls the encoder to its codes.

    Args:
        latents: z, any shape.
        quantised: e, the same shape; takes no gradient.

    Source: van den Oord et al. 2017 (VQ-VAE), eq. 3, third term.
    Differs: a mean over elements, as published code has it.
    """
    return (latents - quantised.detach()).square().mean()


def codebook_loss(
    latents: Latents, quantised: Latents, *, beta: float, legacy: bool
) -> Float[Tensor, ""]:
    """Codebook loss L = mean (sg[z] - e)^2 + beta mean (z - sg[e])^2.

    With ``legacy`` beta stands at the other term: beta mean (sg[z] - e)^2 + mean (z - sg[e])^2.

    Args:
        latents: z, (B, C, h, w).
        quantised: e, the codes of z, with their graph.
        beta: weight of the commitment, or with ``legacy`` of the codebook term.
        legacy: how VQGAN and LDM were trained: beta is at the codebook term.

    Source: van den Oord et al. 2017 (VQ-VAE), eq. 3; ``legacy`` is the released code of Esser et
        al. 2021 (VQGAN) and Rombach et al. 2022 (LDM).
    Differs: a mean over elements, as published code has it.
    """
    codebook = (latents.detach() - quantised).square().mean()
    commitment = (latents - quantised.detach()).square().mean()
    return beta * codebook + commitment if legacy else codebook + beta * commitment


class LearnedCodebook(Quantizer):
    """Quantiser to the nearest of V vectors that gradients move.

    Args:
        codebook_size: V.
        width: C, length of a code.
        beta: see ``codebook_loss``.
        legacy_beta: see ``codebook_loss``.
        gradient: see ``passed``.

    Raises:
        ConfigError: fewer than one code, or beta is negative.

    Source: released code of Esser et al. 2021 (VQGAN): uniform in [-1 / V, 1 / V] at the start.
    Differs: none.
    """

    def __init__(
        self,
        *,
        codebook_size: int,
        width: int,
        beta: float,
        legacy_beta: bool,
        gradient: GradientEstimator,
    ) -> None:
        super().__init__()
        check_codebook(codebook_size, width, beta)
        self.codebook_size = codebook_size
        self.width = width
        self.beta = beta
        self.legacy_beta = legacy_beta
        self.gradient = gradient
        self.embedding = nn.Embedding(codebook_size, width)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    @property
    def remedy(self) -> str:
        """The settings to turn where codes die."""
        return (
            f"lower its codebook_size ({self.codebook_size}), or choose the codebook of averages "
            "(t2ibench.autoencoders.codebooks.VectorQuantizer), which revives them"
        )

    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the nearest code of each vector."""
        return nearest_code(vectors, self.embedding.weight)

    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M C"]:
        """The code vectors."""
        return self.embedding(codes)

    def forward(self, latents: Latents) -> Quantised:
        """The nearest codes; the penalty moves the codebook and commits the encoder."""
        vectors, codes = self.quantise(latents)
        penalty = codebook_loss(latents, vectors, beta=self.beta, legacy=self.legacy_beta)
        return Quantised(passed(latents, vectors, self.gradient), codes, penalty)


class CosineCodebook(Quantizer):
    """Quantiser to the code of the greatest cosine: vectors and codes are of length one.

    The codes are short (8 numbers in LlamaGen, 32 in ViT-VQGAN), so that a large codebook is used
    whole; the layer before projects to their width. The penalty is ``codebook_loss`` between
    normalised vectors.

    Args:
        codebook_size: V.
        width: C, length of a code.
        beta: weight of the commitment.
        gradient: see ``passed``.

    Raises:
        ConfigError: fewer than one code, or beta is negative.

    Source: Yu et al. 2022 (ViT-VQGAN), section 3.2 (factorised and l2-normalised codes); Sun et
        al. 2024 (LlamaGen), section 3.1 and released code.
    Differs: none.
    """

    def __init__(
        self, *, codebook_size: int, width: int, beta: float, gradient: GradientEstimator
    ) -> None:
        super().__init__()
        check_codebook(codebook_size, width, beta)
        self.codebook_size = codebook_size
        self.width = width
        self.beta = beta
        self.gradient = gradient
        self.embedding = nn.Embedding(codebook_size, width)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)
        with torch.no_grad():
            self.embedding.weight.copy_(normalize(self.embedding.weight, dim=1))

    @property
    def remedy(self) -> str:
        """The settings to turn where codes die."""
        return f"lower its codebook_size ({self.codebook_size}) or its width ({self.width})"

    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the code of the greatest cosine with each vector."""
        with torch.autocast(vectors.device.type, enabled=False):
            codes = normalize(self.embedding.weight.float(), dim=1)
            return (vectors.float() @ codes.T).argmax(1)

    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M C"]:
        """The code vectors, of length one."""
        return normalize(self.embedding(codes), dim=-1)

    def forward(self, latents: Latents) -> Quantised:
        """The nearest codes; the penalty moves the codebook and commits the encoder."""
        vectors, codes = self.quantise(latents)
        unit = normalize(latents, dim=1)
        penalty = codebook_loss(unit, vectors, beta=self.beta, legacy=False)
        return Quantised(passed(unit, vectors, self.gradient), codes, penalty)


class VectorQuantizer(Quantizer):
    """Quantiser to the nearest code; each code is a moving average of the vectors nearest to it.

    k(z) = argmin_j ||z - e_j||^2. A training step moves N_j <- g N_j + (1 - g) n_j and
    m_j <- g m_j + (1 - g) sum(z: k(z) = j), and e_j = m_j / N_j. A code whose N_j is below
    ``revive_below`` of an equal share is put on a vector of the batch, drawn in proportion to its
    squared distance to its code; at the start all are, so the first batch initialises the
    codebook.

    Args:
        codebook_size: V.
        width: C, length of a code.
        decay: g.
        revive_below: least use, as a share of the use of a code were all used alike; keep it
            small, for a code revived too early never settles.
        gradient: see ``passed``.

    Source: van den Oord et al. 2017 (VQ-VAE), section 3.1 and appendix A.1; revival after
        Dhariwal et al. 2020 (Jukebox), section 3.1, draws as in Arthur and Vassilvitskii 2007
        (k-means++), section 2.2.
    Differs: revived codes go where the error is, not anywhere: most patches are background.
    """

    codebook: Float[Tensor, "V C"]
    sizes: Float[Tensor, " V"]
    sums: Float[Tensor, "V C"]

    def __init__(
        self,
        *,
        codebook_size: int,
        width: int,
        decay: float,
        revive_below: float,
        gradient: GradientEstimator,
    ) -> None:
        super().__init__()
        check_codebook(codebook_size, width)
        self.codebook_size = codebook_size
        self.width = width
        self.decay = decay
        self.revive_below = revive_below
        self.gradient = gradient
        start = torch.randn(codebook_size, width)
        self.register_buffer("codebook", start)
        self.register_buffer("sizes", torch.zeros(codebook_size))
        self.register_buffer("sums", torch.zeros(codebook_size, width))

    @property
    def remedy(self) -> str:
        """The settings to turn where codes die."""
        return (
            f"raise its revive_below ({self.revive_below:g}) or lower its codebook_size "
            f"({self.codebook_size})"
        )

    def nearest(self, vectors: Float[Tensor, "M C"]) -> Int[Tensor, " M"]:
        """Index of the nearest code of each vector."""
        return nearest_code(vectors, self.codebook)

    def lookup(self, codes: Int[Tensor, "*M"]) -> Float[Tensor, "*M C"]:
        """The code vectors."""
        return embedding(codes, self.codebook)

    def forward(self, latents: Latents) -> Quantised:
        """The nearest codes, after one step of the codebook in training mode."""
        if self.training:
            vectors = as_vectors(latents.detach())
            self.update(vectors, self.nearest(vectors))
        nearest, codes = self.quantise(latents)
        penalty = commitment_loss(latents, nearest)
        return Quantised(passed(latents, nearest, self.gradient), codes, penalty)

    @torch.no_grad()
    def update(self, vectors: Float[Tensor, "M C"], codes: Int[Tensor, " M"]) -> None:
        """One moving-average step from a batch's vectors and their codes (over all ranks)."""
        vectors = vectors.float()
        chosen = one_hot(codes, self.codebook_size).to(vectors.dtype)
        counts, totals = summed(chosen.sum(0)), summed(chosen.T @ vectors)
        error = gathered((vectors - self.lookup(codes)).square().sum(1))
        vectors = gathered(vectors)
        self.sizes.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(totals, 1 - self.decay)
        # One host-free rule for all codes: the dead ones take a random vector as if its use
        # were just enough.
        least = self.revive_below * len(vectors) / self.codebook_size
        dead = (self.sizes < least).unsqueeze(1)
        likely = error + torch.finfo(error.dtype).eps * (1 + error.max())
        drawn = vectors[torch.multinomial(likely, self.codebook_size, replacement=True)]
        self.sizes.copy_(torch.where(dead[:, 0], least, self.sizes))
        self.sums.copy_(torch.where(dead, least * drawn, self.sums))
        total = self.sizes.sum()
        smooth = (self.sizes + LAPLACE_EPSILON) / (total + self.codebook_size * LAPLACE_EPSILON)
        self.codebook.copy_(self.sums / (smooth * total).unsqueeze(1))


def check_codebook(codebook_size: int, width: int, beta: float = 0.0) -> None:
    """Refuses a codebook that cannot be.

    Raises:
        ConfigError: fewer than one code or number a code, or beta is negative.
    """
    if codebook_size < 1 or width < 1:
        raise ConfigError(
            f"a codebook has at least one code of at least one number, not "
            f"codebook_size={codebook_size} and width={width}."
        )
    if beta < 0:
        raise ConfigError(f"beta={beta:g} of a codebook must not be negative; VQGAN has 0.25.")
