"""Exponential moving average of weights, its length measured in images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightEMA:
    """Shadow weights with a half-life in images, so that it means the same at any batch size.

    theta_ema <- d theta_ema + (1 - d) theta with d = 0.5^(batch / half_life). Early in
    training the half-life is capped at ``ramp_up`` times the images seen, so that the
    average forgets the initialisation.

    Args:
        parameters: name to parameter; those that sampling uses.
        half_life_images: images after which a weight's share has halved; 0 copies.
        ramp_up: cap of the half-life as a share of the images seen.

    Source: Karras et al. 2019 (StyleGAN), section C; ramp-up from Karras et al. 2020
        (StyleGAN2-ADA), its training loop.
    Differs: none.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        half_life_images: float,
        ramp_up: float = 0.05,
    ) -> None:
        self.half_life_images = half_life_images
        self.ramp_up = ramp_up
        self._live = dict(parameters)
        self.shadow: dict[str, Tensor] = {n: p.detach().clone() for n, p in self._live.items()}

    def decay(self, batch_images: int, images_seen: int) -> float:
        """The decay d for a step of ``batch_images`` after ``images_seen`` images."""
        half_life = min(self.half_life_images, self.ramp_up * images_seen)
        return 0.5 ** (batch_images / max(half_life, 1e-8)) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, batch_images: int, images_seen: int) -> None:
        """One averaging step."""
        weight = 1 - self.decay(batch_images, images_seen)
        shadow = [self.shadow[n] for n in self._live]
        live = [p.detach() for p in self._live.values()]
        torch._foreach_lerp_(shadow, live, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swaps the average into the live parameters inside the block, then restores them."""
        backup = {n: p.detach().clone() for n, p in self._live.items()}
        with torch.no_grad():
            for n, p in self._live.items():
                p.copy_(self.shadow[n])
        try:
            yield
        finally:
            with torch.no_grad():
                for n, p in self._live.items():
                    p.copy_(backup[n])

    def state_dict(self) -> dict[str, Tensor]:
        """The shadow weights."""
        return self.shadow

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores the shadow weights; the names must be the same.

        Raises:
            KeyError: a name is missing or surplus.
        """
        if set(state) != set(self.shadow):
            raise KeyError(f"EMA names differ: {sorted(set(state) ^ set(self.shadow))[:5]}")
        for n, value in state.items():
            self.shadow[n].copy_(value)
