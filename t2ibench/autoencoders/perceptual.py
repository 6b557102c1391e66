"""Perceptual losses of a first stage: distances between the features of a frozen network.

None of these networks can be one of the evaluator's: LPIPS is a VGG16 and fits no other file, and
the other one has random weights of its own. So the leakage guard has nothing to find in them, and
a first stage does not keep them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from t2ibench.core.errors import CheckpointError, ConfigError, MissingWeightsError, first_line
from t2ibench.core.frozen import FrozenHolder
from t2ibench.core.hashing import hash_file
from t2ibench.core.tensors import foreign_content, read_safetensors
from t2ibench.core.types import Images
from t2ibench.metrics.extractors.published import weights_root

VGG16_FILE = "vgg16-397923af.pth"
"""Name of torchvision's file of VGG16 (IMAGENET1K_V1); the digits begin its SHA-256."""

VGG16_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of VGG16's convolutions, stage by stage; a pooling by 2 stands between stages."""

IMAGE_SHIFT, IMAGE_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and deviation a colour of ImageNet's images in [-1, 1], as LPIPS has them."""

RANDOM_WIDTHS = ((16,), (32,), (64,))
"""Channels of the random network."""

RANDOM_SEED = 0
"""Seed of the random network: it is the same one in all trainings."""

DIGITS = 8
"""Least number of digits of a hash by which a file is known."""

EPSILON = 1e-10
"""Least length of a feature vector when it is normalised (released code of LPIPS)."""


class FeatureStages(nn.Module):
    """Stages of 3x3 convolutions with ReLU, each after the first on half the size: VGG's layout.

    Parameters have the names that torchvision's VGG16 has.

    Args:
        widths: channels of the convolutions, stage by stage.

    Source: Simonyan and Zisserman 2015 (VGG), table 1, column D.
    Differs: without classifier and last pooling.
    """

    def __init__(self, widths: Sequence[Sequence[int]]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.ends: list[int] = []
        channels = 3
        for stage in widths:
            layers += [nn.MaxPool2d(2)] if layers else []
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.ends.append(len(layers))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Features (B, C_l, H / 2^l, W / 2^l) at the end of each stage l."""
        found = []
        for start, end in pairwise([0, *self.ends]):
            for layer in list(self.features)[start:end]:
                x = layer(x)
            found.append(x)
        return found


class PerceptualLoss(FrozenHolder):
    """Distance of two images in the features of a frozen network, averaged over the batch."""

    @abstractmethod
    def forward(self, images: Images, made: Images) -> Float[Tensor, ""]:
        """The distance; gradients flow to both."""

    def differences(self, images: Images, made: Images) -> list[Tensor]:
        """Squared differences (B, C_l, h, w) of unit feature vectors, stage by stage.

        In float32 under autocast too.
        """
        with torch.autocast(images.device.type, enabled=False):
            shift, scale = (images.new_tensor(c)[:, None, None] for c in (IMAGE_SHIFT, IMAGE_SCALE))
            both = (torch.cat([images, made.to(images)]) - shift) / scale
            stages = self._frozen["network"](both)
            units = [x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON) for x in stages]
            halves = [unit.chunk(2) for unit in units]
            return [(one - other).square() for one, other in halves]


class RandomFeatures(PerceptualLoss):
    """Distance in a small VGG-like network with random weights, which nobody trained.

    Mean over channels and places of the squared differences of unit feature vectors, summed over
    the stages. It compares edges and textures at three sizes; it knows nothing of objects, and its
    distance is not LPIPS.

    Source: Zhang et al. 2018 (LPIPS), section 3 (random networks are among those compared).
    Differs: three small stages, weights of He et al. 2015, every channel counts alike.
    """

    def __init__(self) -> None:
        super().__init__()
        # The global generator is left as it was found.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(RANDOM_SEED)
            network = FeatureStages(RANDOM_WIDTHS)
            for layer in network.features:
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                    assert layer.bias is not None
                    nn.init.zeros_(layer.bias)
        self.hold("network", network)

    def forward(self, images: Images, made: Images) -> Float[Tensor, ""]:
        """The distance; gradients flow to both."""
        return torch.stack([d.mean() for d in self.differences(images, made)]).sum()


class LPIPS(PerceptualLoss):
    """Learned perceptual similarity: weighted feature distances of VGG16, mean over the batch.

    At each of five stages l the squared differences of unit feature vectors are weighted by
    w_l >= 0, which people's judgements taught, summed over channels and averaged over places.

    Args:
        weights: torchvision's file of VGG16, ``.pth`` or ``.safetensors``; None: ``VGG16_FILE`` in
            the folder of weights. The weights w_l come with torchmetrics.
        sha256: how the file's SHA-256 begins.

    Raises:
        MissingWeightsError: there is no such file.
        CheckpointError: its hash is another, it cannot be read, or it is not VGG16.

    Source: Zhang et al. 2018 (LPIPS), eq. 1, version 0.1 ("lin", VGG), as VQGAN has it.
    Differs: no dropout before w_l, which the released VQGAN leaves on while it trains.
    """

    def __init__(self, weights: str | None, sha256: str) -> None:
        super().__init__()
        path = located(weights, sha256)
        state = {n: t for n, t in _read(path).items() if n.startswith("features.")}
        with torch.device("meta"):
            network = FeatureStages(VGG16_WIDTHS)
        try:
            network.load_state_dict(state, strict=True, assign=True)
        except RuntimeError as error:
            raise CheckpointError(
                f"{path} does not hold the 13 convolutions of VGG16 ({first_line(error)}); give "
                f"torchvision's {VGG16_FILE}."
            ) from error
        self.hold("network", network)
        self.hold("lin", _lin_weights())

    def forward(self, images: Images, made: Images) -> Float[Tensor, ""]:
        """The distance; gradients flow to both."""
        terms = zip(self._frozen["lin"], self.differences(images, made), strict=True)
        return torch.stack([lin(d).mean() for lin, d in terms]).sum()


def located(weights: str | None, sha256: str) -> Path:
    """The file of VGG16's weights, checked by its hash.

    Args:
        weights: the file; None: ``VGG16_FILE`` in the folder of weights.
        sha256: how its SHA-256 begins.

    Raises:
        ConfigError: fewer than eight digits of the hash.
        MissingWeightsError: there is no such file.
        CheckpointError: its hash is another.
    """
    if len(sha256) < DIGITS:
        raise ConfigError(
            f"parts.first_stage.module.lpips_sha256={sha256!r} must have at least {DIGITS} digits, "
            f"for weights are known by it; that of {VGG16_FILE} begins 397923af."
        )
    path = Path(weights).expanduser() if weights else weights_root() / VGG16_FILE
    if not path.is_file():
        raise MissingWeightsError(
            f"perceptual=lpips needs torchvision's {VGG16_FILE} (SHA-256 {sha256}...), and {path} "
            "is not there: put it there, set parts.first_stage.module.lpips_weights to it, or "
            "choose parts.first_stage.module.perceptual=features or none."
        )
    found = hash_file(path)
    if not found.startswith(sha256):
        raise CheckpointError(
            foreign_content(path)
            or f"{path} has SHA-256 {found[:12]}, not {sha256}: give torchvision's {VGG16_FILE}, "
            "or set parts.first_stage.module.lpips_sha256 to the hash of yours."
        )
    return path


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, read without running what it holds."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): tensor for name, tensor in state.items()}
    except Exception as error:  # what a damaged pickle raises is anything
        raise CheckpointError(
            foreign_content(path)
            or f"{path} cannot be read as weights ({first_line(error)}); give torchvision's "
            f"{VGG16_FILE}."
        ) from error


def _lin_weights() -> nn.ModuleList:
    """The 1x1 convolutions w_l of LPIPS for VGG16."""
    package = resources.files("torchmetrics")
    path = package / "functional" / "image" / "lpips_models" / "vgg.pth"
    with path.open("rb") as file:
        state = torch.load(file, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        lins = nn.ModuleList(nn.Conv2d(stage[-1], 1, 1, bias=False) for stage in VGG16_WIDTHS)
    for i, lin in enumerate(lins):
        lin.load_state_dict({"weight": state[f"lin{i}.model.1.weight"]}, assign=True)
    return lins
