"""First stages as parts: trained once, found by content, shared by every run that names them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from t2ibench.autoencoders.frozen import FrozenFirstStage
from t2ibench.autoencoders.metrics import reconstruction_scores
from t2ibench.core.errors import CheckpointError, ConfigError
from t2ibench.core.hashing import derive_seed
from t2ibench.core.pixels import from_pixels
from t2ibench.core.ranks import barrier, from_first, rank
from t2ibench.core.tensors import read_safetensors
from t2ibench.core.types import Images
from t2ibench.data.records import DataSource, PreparedSplit
from t2ibench.data.stream import BatchStream
from t2ibench.engine.build import instantiate
from t2ibench.engine.context import Context
from t2ibench.engine.device import facts
from t2ibench.engine.fitting import options_of
from t2ibench.engine.interrupt import Interrupted, outcome
from t2ibench.engine.parts.part import Part, Prepared
from t2ibench.engine.progress import wait_reporter
from t2ibench.engine.spec import ComponentField, Neither, Trained, TrainingRecipe
from t2ibench.runs.clock import Budget, Clock
from t2ibench.runs.folder import Run
from t2ibench.training.checkpoint import load_weights
from t2ibench.training.fit import fit

log = logging.getLogger(__name__)

STATISTICS_IMAGES, RECONSTRUCTION_IMAGES = 2048, 1000
"""Number of training images of the latent statistics, of validation images of the scores."""


class FirstStageRecipe(TrainingRecipe):
    """Recipe of training a first stage.

    Attributes:
        images: training budget, unless ``budget.first_stage_images`` sets another.
    """

    images: Annotated[int, Field(ge=1), Trained]


class TrainedFirstStage(Part):
    """An autoencoder that is trained on the run's own training split (``autoencoder=…``).

    Attributes:
        kind: ``kl`` has latents, ``vq`` also codes.
        spatial_factor: pixels that a latent position spans along each side.
        seed: seed of its training; generators of all seeds share one first stage.
        training: training recipe.
        module: module that trains the autoencoder.
    """

    weights_in_model: ClassVar[bool] = True

    kind: Annotated[Literal["kl", "vq"], Neither]
    spatial_factor: Annotated[int, Field(ge=1), Neither]
    seed: Annotated[int, Field(ge=0), Trained]
    training: FirstStageRecipe
    module: Annotated[ComponentField, Trained]

    def identity(self, context: Context) -> dict[str, Any]:
        """Configuration, images, data and precision of the stage; nothing of the generator's."""
        spec = context.spec
        own = self.values(Trained)
        own["training"] = own["training"] | {"images": self.images(context)}
        if self.kind == "kl":
            own["latent_statistics"] = "posterior samples"  # stages scaled otherwise are others
        return own | {
            "data": context.source.split_fingerprint("train"),
            "resolution": spec.data.resolution,
            "precision": spec.trainer.precision,
        }

    def images(self, context: Context) -> int:
        """Number of training images."""
        return context.spec.budget.first_stage_images or self.training.images

    def check(self, context: Context) -> None:
        """Refuses absent files, and a resolution that its factor and the model's do not divide."""
        resolution, model = context.spec.data.resolution, context.spec.model
        factor = self.spatial_factor * model.resolution_multiple
        if resolution % factor:
            raise ConfigError(
                f"data.resolution={resolution} is not a multiple of {factor}, which "
                f"model={model.name} with autoencoder={self.name} needs; choose such a resolution."
            )
        if hasattr(self.module.cls, "check_files"):
            self.module.cls.check_files(self.module.arguments)

    def given(self, module: nn.Module) -> tuple[str, ...]:
        """Phrase for the leaderboard where its loss used a pretrained network."""
        pretrained = self.module.arguments.get("perceptual") == "lpips"
        return ("pretrained LPIPS (VGG16) in the loss of its first stage",) if pretrained else ()

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Trains the first stage, or finds it trained."""
        own = self.run(context)
        with own.locked(wait_reporter(own)), outcome(own):
            from_first(own.begin, self.recorded(context))
            clock = Clock()
            weights = own.path / "checkpoints" / "first_stage.safetensors"
            module = self._untrained(context).to(memory_format=torch.channels_last)
            if from_first(lambda: own.state == "finished" and is_whole(weights)):
                clock.load_state_dict(own.status()["clock"])
            else:
                self._train(context, own, module, clock)
                if rank() == 0:
                    load_weights(module, own.weights)
                    module.to(context.device)
                    batches = image_batches(context.source.split("train"), STATISTICS_IMAGES)
                    stage = FrozenFirstStage.measure(module.autoencoder, batches)
                    stage.save(weights)
                    scores = held_out_scores(stage, context.source)
                    own.set_status("finished", clock=clock.state_dict(), reconstruction=scores)
                barrier()
            stage = FrozenFirstStage.load(weights, module.autoencoder).to(context.device)
        found = {"run": own.path.name, "fingerprint": stage.fingerprint}
        return Prepared(stage, clock.flops, clock.seconds, found)

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Builds its layout; the weights are the model's own."""
        return FrozenFirstStage(self._untrained(context).autoencoder)

    def run(self, context: Context) -> Run:
        """Run folder of the first stage."""
        root, label = context.spec.paths.runs, f"first_stage-{self.name}"
        return Run.named(root, label, self.identity(context))

    def _untrained(self, context: Context) -> Any:
        torch.manual_seed(derive_seed("init first stage", self.seed))
        return instantiate(self.module, resolution=context.spec.data.resolution)

    def _train(self, context: Context, own: Run, module: Any, clock: Clock) -> None:
        """Trains the autoencoder on the training split.

        Raises:
            Interrupted: a signal ended its training; the same command resumes it.
        """
        spec, train = context.spec, context.source.split("train")

        def stream(images_seen: int, number: int, world_size: int) -> BatchStream:
            return BatchStream(
                train,
                batch_size=self.training.batch_size,
                seed=derive_seed("first stage", self.seed),
                images_seen=images_seen,
                rank=number,
                world_size=world_size,
            )

        own.set_status("running")
        own.write_manifest(
            data=context.source.split_fingerprint("train"),
            device=facts(context.device, spec.trainer.precision),
        )
        # Small enough to be replicated, whatever the generator's strategy.
        options = replace(options_of(context, self.training), strategy="auto")
        budget = Budget("images", self.images(context))
        fitted = fit(module, stream, own, budget, options, self.seed, clock)
        if fitted.signal is not None:
            raise Interrupted(fitted.signal)


def is_whole(weights: Path) -> bool:
    """True where a trained first stage can be read; else a warning says why it is made again."""
    try:
        read_safetensors(weights)
    except CheckpointError as error:
        log.warning("%s It is made again, from its checkpoint where there is one.", error)
        return False
    return True


def held_out_scores(stage: FrozenFirstStage, source: DataSource) -> dict[str, float]:
    """PSNR, SSIM and mean absolute error on the first validation images."""
    images = torch.cat(list(image_batches(source.split("val"), RECONSTRUCTION_IMAGES)))
    return reconstruction_scores(images, reconstructions(stage, images))


def image_batches(split: PreparedSplit, count: int, batch_size: int = 128) -> Iterator[Images]:
    """The first ``count`` images of a split in [-1, 1], on the CPU."""
    total = min(count, len(split))
    for start in range(0, total, batch_size):
        yield from_pixels(split.pixels(range(start, min(start + batch_size, total))))


@torch.no_grad()
def reconstructions(stage: FrozenFirstStage, images: Tensor, batch_size: int = 128) -> Tensor:
    """Reconstructions of real images on the CPU: the ceiling of any generator's quality."""
    pieces = [piece.to(stage.latent_mean.device) for piece in images.split(batch_size)]
    if stage.kind == "vq":
        return torch.cat([stage.decode_codes(stage.codes(x)).cpu() for x in pieces])
    return torch.cat([stage.decode(stage.encode(x)).cpu() for x in pieces])
