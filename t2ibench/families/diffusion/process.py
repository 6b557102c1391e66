"""Diffusion apart from the network: noise levels, training target and loss, and the solver.

It works on whatever is diffused: latents, pixels or embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.knobs import Knob
from t2ibench.core.noise import Noise, SeededNoise
from t2ibench.core.ranks import noise_like, own_rows
from t2ibench.families.diffusion.denoiser import Predict, make_denoiser, parted
from t2ibench.families.diffusion.losses import Posterior, variance_bound, weighted_errors
from t2ibench.samplers.deterministic import Between, unchanged
from t2ibench.samplers.guidance import Guidance
from t2ibench.samplers.levels import Levels, make_levels
from t2ibench.samplers.prediction import (
    add_noise,
    check_prediction,
    split_prediction,
    training_target,
)
from t2ibench.samplers.schedules import make_schedule
from t2ibench.samplers.solvers import find_solver
from t2ibench.samplers.stochastic import check_variance

Latent = Float[Tensor, "B ..."]
BOUND_WEIGHT = 0.001
"""Weight of the variational bound, a sum over T, in the loss; Nichol and Dhariwal 2021."""


class DiffusionProcess(nn.Module):
    """Diffusion process: noising, training objective and solver; has no weights.

    Args:
        schedule: noise schedule, a ``ScheduleName``.
        timesteps: T, number of training timesteps.
        prediction_type: quantity that the network predicts, a ``PredictionType``.
        snr_cap: gamma of min-SNR weighting; 0 is the unweighted error.
        timestep_location: mean of the logit of t / T; negative is less noise.
        timestep_spread: standard deviation of that logit; 0 is uniform timesteps.
        solver: sampling solver, a key of ``SOLVERS``.
        spacing: spacing of the sampling steps, a ``Spacing``.
        num_steps: default number of sampling steps.
        betas: first and last beta, for the schedules that have them.
        shift: shift of the log SNR for the resolution; 1 is none.
        zero_terminal_snr: True to rescale the schedule so that it ends in pure noise.
        noise_offset: deviation of noise that is constant over a channel; 0 is none.
        timestep_offset: offset of the uniform spacing.
        last_level: noise level at which sampling ends, a ``LastLevel``.
        learned_variance: True where the network's second half of channels is the ddpm solver's
            variance, whose bound is then added to the loss.
        variance: variance of the ddpm solver where it is not learned, a ``FixedVariance``.
        clip_sample: True to clip each predicted x_0 to [-1, 1].
        threshold: default percentile of dynamic thresholding; 0 is none.

    Raises:
        ConfigError: a name is unknown, a value is out of range, or two values are incompatible.

    Source: Ho et al. 2020 (DDPM), section 3; Liu et al. 2023 (Rectified flow), section 2.1.
    Differs: low-discrepancy timesteps, see ``draw_timesteps``.
    """

    sampling_arguments: ClassVar[frozenset[str]] = frozenset(
        {
            "solver",
            "spacing",
            "num_steps",
            "timestep_offset",
            "last_level",
            "variance",
            "clip_sample",
            "threshold",
        }
    )

    alpha: Float[Tensor, " T"]
    sigma: Float[Tensor, " T"]
    times: Float[Tensor, " T"]

    def __init__(
        self,
        *,
        schedule: str,
        timesteps: int,
        prediction_type: str,
        snr_cap: float,
        timestep_location: float,
        timestep_spread: float,
        solver: str,
        spacing: str,
        num_steps: int,
        betas: Sequence[float] | None = None,
        shift: float = 1.0,
        zero_terminal_snr: bool = False,
        noise_offset: float = 0.0,
        timestep_offset: int = 0,
        last_level: str = "image",
        learned_variance: bool = False,
        variance: str = "small",
        clip_sample: bool = False,
        threshold: float = 0.0,
    ) -> None:
        super().__init__()
        # On the CPU also where the networks are only sketched (torch.device("meta")).
        with torch.device("cpu"):
            self.schedule = make_schedule(
                schedule, timesteps, betas=betas, shift=shift, zero_terminal=zero_terminal_snr
            )
        self.prediction_type = check_prediction(prediction_type)
        if self.schedule.ends_in_pure_noise and prediction_type == "epsilon":
            raise ConfigError(
                "process.prediction_type=epsilon says nothing of the image in pure noise, where "
                "rectified_flow and zero_terminal_snr end; choose v, x0 or flow."
            )
        check_variance(variance)
        flow = schedule == "rectified_flow"
        if learned_variance and flow:
            raise ConfigError(
                "process.learned_variance=true is for variance-preserving diffusion; with "
                "schedule=rectified_flow leave it false."
            )
        _check_range("noise_offset", noise_offset)
        _check_range("snr_cap", snr_cap)
        _check_range("timestep_spread", timestep_spread)
        _check_range("threshold", threshold, 1)
        self.timesteps = timesteps
        self.snr_cap = snr_cap
        self.timestep_location = timestep_location
        self.timestep_spread = timestep_spread
        self.noise_offset = noise_offset
        pure_noise = self.schedule.ends_in_pure_noise
        self.solver = find_solver(solver, flow=flow, pure_noise=pure_noise)
        self.spacing = spacing
        self.timestep_offset = timestep_offset
        self.last_level = last_level
        self.variance = "learned" if learned_variance else variance
        self.learned = learned_variance
        self.clip_sample = clip_sample
        self.threshold = threshold
        self.num_steps = num_steps
        with torch.device("cpu"):
            self.levels()
        tables = vars(self.schedule)
        if self.learned:
            tables = tables | vars(Posterior.of(self.schedule))
        for name, table in tables.items():
            values = table.float().to(torch.empty(0).device)
            self.register_buffer(name, values, persistent=False)

    @property
    def alphas_bar(self) -> Float[Tensor, " T"]:
        """Values of alpha^2 of each timestep, in float32 on the process's device."""
        return self.alpha.square()

    def knobs(self) -> tuple[Knob, ...]:
        """Sampling knobs: the number of steps and, where the solver has it, eta."""
        steps = Knob("num_steps", self.num_steps, 1, self.timesteps, integer=True)
        if "eta" in self.solver.options:
            return (steps, Knob("eta", 0.0, 0.0, 1.0))
        return (steps,)

    # ---- training ----

    def draw_timesteps(self, count: int) -> Int[Tensor, " B"]:
        """Timesteps of a batch, evenly spread over the distribution by one random offset.

        Source: Kingma et al. 2021 (VDM), appendix I.1; Esser et al. 2024 (Stable Diffusion 3),
            eq. 19.
        Differs: none.
        """
        device = self.alpha.device

        def spread(whole: int) -> Tensor:
            return (torch.arange(whole, device=device) + torch.rand(1, device=device)) / whole

        u = own_rows(spread, count)
        if self.timestep_spread > 0:
            normal = torch.special.ndtri(u)
            u = torch.sigmoid(self.timestep_location + self.timestep_spread * normal)
        return (u * self.timesteps).long().clamp(max=self.timesteps - 1)

    def draw_noise(self, x0: Latent) -> Latent:
        """Standard normal noise like ``x0``, plus noise constant over a channel with an offset.

        Source: Guttenberg 2023 (Diffusion with offset noise).
        Differs: none.
        """
        eps = noise_like(x0)
        if self.noise_offset > 0:
            shape = [x0.shape[1], *[1] * (x0.ndim - 2)]
            kind: Any = {"device": x0.device, "dtype": x0.dtype}
            offset = own_rows(lambda n: torch.randn(n, *shape, **kind), len(x0))
            eps = eps + self.noise_offset * offset
        return eps

    def training_loss(self, predict: Predict, x0: Latent) -> Float[Tensor, ""]:
        """Weighted error at drawn timesteps and noise, by torch's global generator.

        Args:
            predict: see ``Predict``; called once.
            x0: (B, ...) of about unit variance.

        Source: Ho et al. 2020 (DDPM), algorithm 1.
        Differs: see ``draw_timesteps`` and ``weighted_errors``.
        """
        t = self.draw_timesteps(len(x0))
        return self.errors(predict, x0, t, self.draw_noise(x0)).mean()

    def errors(
        self, predict: Predict, x0: Latent, t: Int[Tensor, " B"], eps: Latent
    ) -> Float[Tensor, " B"]:
        """Weighted error of each row at given timesteps and noise.

        Source: Nichol and Dhariwal 2021 (Improved DDPM), eq. 16, with a learned variance.
        Differs: none.
        """
        shape = (-1, *[1] * (x0.ndim - 1))
        alpha = self.alpha[t].to(x0.dtype).view(shape)
        sigma = self.sigma[t].to(x0.dtype).view(shape)
        x = add_noise(x0, eps, alpha, sigma)
        output, fraction = parted(predict(x, self.times[t]), x, learned=self.learned)
        target = training_target(x0, eps, alpha, sigma, self.prediction_type)
        errors = weighted_errors(
            output, target, self.alpha[t], self.sigma[t], self.prediction_type, self.snr_cap
        )
        if fraction is None:
            return errors
        still = output.detach().to(x.dtype)
        predicted_x0, _ = split_prediction(still, x, alpha, sigma, self.prediction_type)
        posterior = Posterior(*(getattr(self, f.name)[t].view(shape) for f in fields(Posterior)))
        last = (t == 0).float().view(shape)
        bound = variance_bound(predicted_x0, fraction, x0, posterior, last)
        return errors + BOUND_WEIGHT * self.timesteps * bound

    def bucket_losses(
        self, predict: Predict, x0: Latent, noise: Noise, buckets: int
    ) -> Float[Tensor, " K"]:
        """Mean error in each of K equal ranges of timesteps, without randomness.

        The same images with the same ``noise`` give the same timesteps (spread over each
        range) and the same eps in every range: what changes is the network.

        Args:
            predict: see ``Predict``; called K times.
            x0: (B, ...) as in training.
            noise: per-sample noise of the B rows.
            buckets: K.

        Raises:
            ConfigError: there are fewer than 1 or more than T buckets.

        Source: after the validation loss of Esser et al. 2024 (Stable Diffusion 3), the mean
            over evenly spaced timesteps.
        Differs: by range; the loss is the one that is trained, weights included.
        """
        if not 1 <= buckets <= self.timesteps:
            raise ConfigError(f"buckets={buckets} must be from 1 to {self.timesteps}; 8 are many.")
        eps = noise.normal(*x0.shape[1:]).to(x0)
        place = (torch.arange(len(x0), device=x0.device) + 0.5) / len(x0)
        losses = []
        for bucket in range(buckets):
            t = ((bucket + place) / buckets * self.timesteps).long()
            losses.append(self.errors(predict, x0, t, eps).mean())
        return torch.stack(losses)

    # ---- sampling ----

    def levels(self, num_steps: int | None = None) -> Levels:
        """Noise levels that ``num_steps`` steps visit; None is the default number.

        Raises:
            ConfigError: the number is out of range, or does not go with the spacing.
        """
        return make_levels(
            self.schedule,
            self.num_steps if num_steps is None else num_steps,
            self.spacing,
            offset=self.timestep_offset,
            last_level=self.last_level,
        )

    @staticmethod
    def kept_steps(num_steps: int, strength: float) -> int:
        """Number of final steps, of ``num_steps``, that an edit of some strength performs.

        Raises:
            ConfigError: the strength is outside [0, 1].
        """
        if not 0 <= strength <= 1:
            raise ConfigError(
                f"strength={strength} must be in [0, 1]: 0 is the image itself, 1 pure noise."
            )
        # 0.29 of 100 steps are 29, whatever the product's last bit says.
        return int(num_steps * strength + 1e-9)

    def sample(
        self,
        predict: Predict,
        x: Latent,
        noise: Noise,
        *,
        num_steps: int | None = None,
        eta: float = 0.0,
        start: tuple[Latent, float] | None = None,
        between: Between = unchanged,
        guide: Guidance | None = None,
        threshold: float | None = None,
    ) -> Latent:
        """Solves from noise, or from a noised image, to the clean x_0.

        Args:
            predict: see ``Predict``; with guidance it is also called with 2B rows, those of the
                prompts followed by the unconditional ones.
            x: (B, ...) standard normal.
            noise: gives all further randomness.
            num_steps: None is the default.
            eta: eta of DDIM.
            start: x_0 to begin from and how much of the way back to noise (SDEdit's strength):
                it is noised by ``x`` to the level that is denoised first. 0 is x_0 itself,
                1 pure noise.
            between: see ``Between``; levels are counted from the first that is visited.
            guide: classifier-free guidance; None: none.
            threshold: percentile of dynamic thresholding; None is the default, 0 none.

        Raises:
            ConfigError: steps or strength are out of range.

        Source: Meng et al. 2022 (SDEdit), algorithm 1, for ``start``; else see the solvers.
        Differs: none.
        """
        levels = self.levels(num_steps)
        if start is not None:
            image, strength = start
            count = self.kept_steps(len(levels), strength)
            if count == 0:
                return image
            levels = levels.last(count)
            if strength < 1:
                x = add_noise(image, x, float(levels.alpha[0]), float(levels.sigma[0]))
        options = {
            "eta": eta,
            "variance": self.variance,
            # As published: worth it for few steps alone.
            "lower_order_final": len(levels) < 15,
            "noise": noise,
        }
        taken = {name: options[name] for name in self.solver.options}
        denoise = make_denoiser(
            predict,
            levels,
            self.prediction_type,
            learned=self.learned,
            tells_variance="variance" in self.solver.options,
            guide=guide,
            clip_sample=self.clip_sample,
            threshold=self.threshold if threshold is None else threshold,
        )
        result: Tensor = self.solver.run(denoise, x, levels, **taken, between=between)
        return result

    def nfe(
        self, num_steps: int | None = None, guide: Guidance | None = None, strength: float = 1.0
    ) -> int:
        """Number of network evaluations for one image, counted by a run on two numbers."""
        rows = 0
        channels = 2 if self.learned else 1

        def count(x: Tensor, t: Tensor) -> Tensor:
            nonlocal rows
            rows += len(x)
            return x.new_zeros(len(x), channels, 2)

        zero = torch.zeros(1, 1, 2, device="cpu")
        start = (zero, strength)
        self.sample(count, zero, SeededNoise([0]), num_steps=num_steps, guide=guide, start=start)
        return rows


def _check_range(key: str, value: float, high: float = float("inf")) -> None:
    if not 0 <= value <= high:
        raise ConfigError(f"process.{key}={value} must be in [0, {high:g}].")
