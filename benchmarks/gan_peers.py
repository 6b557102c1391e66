"""Other people's GANs as ``gan.py`` trains them: AttnGAN's authors' code, and gigagan-pytorch.

The authors' code is of 2018: it is read from a checkout and run as it stands but for names of
PyTorch that have gone, its configuration file and its download of Inception's weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torchvision
from torch import Tensor, nn

from t2ibench.interop.gan_files import parts_of

REPLACED = (
    # Scalars are read by item().
    (r"\.data\[0\]", ".item()"),
    # Places are laid out as scores are; theirs gives a place the mask of another caption.
    (r"self\.mask\.repeat\(queryL, 1\)", "self.mask.repeat_interleave(queryL, 0)"),
    (r"nn\.Softmax\(\)", "nn.Softmax(dim=1)"),
    (r"F\.sigmoid", "torch.sigmoid"),
)
"""What the authors' code is read with in place of what it says."""

GAMMAS = (4.0, 5.0, 10.0)
"""DAMSM's, of the authors' ``bird_attn2.yml``."""


class Settings(dict[str, Any]):
    """A dictionary whose keys are attributes, which is all that easydict is used for."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__  # type: ignore[assignment]


class AuthorsAttnGAN:
    """The authors' networks, losses and order of steps, with the weights of ours.

    Args:
        checkout: of taoxugit/AttnGAN.
        ours: module whose weights are copied.
        stages: images a caption.
        batch: images of a step.
        device: where it trains.
    """

    def __init__(self, checkout: Path, ours: Any, stages: int, batch: int, device: str) -> None:
        self.code = authors_code(checkout / "code")
        text = ours.damsm.network.text
        cfg = self.code.config.cfg
        cfg.CUDA = device == "cuda"
        cfg.TREE.BRANCH_NUM = stages
        cfg.GAN.GF_DIM, cfg.GAN.DF_DIM = 32, 64
        cfg.TEXT.EMBEDDING_DIM = text.width
        smooth = cfg.TRAIN.SMOOTH
        smooth.GAMMA1, smooth.GAMMA2, smooth.GAMMA3 = GAMMAS
        smooth.LAMBDA = ours.damsm_weight
        model = self.code.model
        self.generator = model.G_NET()
        judges = (model.D_NET64, model.D_NET128, model.D_NET256)
        self.judges = [judge() for judge in judges[:stages]]
        self.text = model.RNN_ENCODER(len(text.vocabulary) + 1, nhidden=text.width).eval()
        untrained = torchvision.models.inception_v3(weights=None, init_weights=False)
        with (
            redirect_stdout(StringIO()),
            patch.object(model.model_zoo, "load_url", lambda url: untrained.state_dict()),
            patch.object(model.models, "inception_v3", lambda: untrained),
        ):
            self.image = model.CNN_ENCODER(text.width).eval()
        for network in (self.text, self.image):
            network.requires_grad_(False)
        self._copy(ours)
        for network in (self.generator, *self.judges, self.text, self.image):
            network.to(device)
            if device == "cuda":
                network.to(memory_format=torch.channels_last)
        rates: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999)}
        self.of_judges = [torch.optim.Adam(judge.parameters(), **rates) for judge in self.judges]
        self.of_generator = torch.optim.Adam(self.generator.parameters(), **rates)
        self.ones = torch.ones(batch, device=device)
        self.zeros = torch.zeros(batch, device=device)
        self.own = torch.arange(batch, device=device)

    def _copy(self, ours: Any) -> None:
        towers = ours.damsm.network
        copy_parts(ours.generator, self.generator, "attn_gan")
        copy_parts(towers.text, self.text, "damsm_text")
        copy_parts(towers.image, self.image, "damsm_image")
        for judge, own in zip(self.judges, ours.discriminators.of_side.values(), strict=True):
            trunk = [part for name, part in judge.named_children() if "img_code" in name]
            conditional = judge.COND_DNET
            pairs = [
                (nn.ModuleList(trunk), own.trunk),
                (conditional.jointConv, own.joint),
                (conditional.outlogits, own.told),
                (judge.UNCOND_DNET.outlogits, own.alone),
            ]
            for theirs, mine in pairs:
                values = list(mine.state_dict().values())
                names = list(theirs.state_dict())
                theirs.load_state_dict(dict(zip(names, values, strict=True)), strict=True)

    def encode(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Words, sentences, and what pads; captions are sorted, the longest first."""
        words, sentence = self.text(ids, lengths, self.text.init_hidden(len(ids)))
        return words.detach(), sentence.detach(), ids[:, : words.shape[2]] == 0

    def judging_loss(self, i: int, real: list[Tensor], fake: list[Tensor], told: Tensor) -> Tensor:
        """Loss of discriminator i."""
        return self.code.losses.discriminator_loss(
            self.judges[i], real[i], fake[i], told, self.ones, self.zeros
        )

    def drawing_loss(self, drawn: Any, words: Tensor, sentence: Tensor, lengths: Tensor) -> Tensor:
        """Loss of the generator, DAMSM's and the divergence included."""
        images, _, mean, log_variance = drawn
        found, _ = self.code.losses.generator_loss(
            self.judges, self.image, images, self.ones, words, sentence, self.own, lengths, None
        )
        return found + self.code.losses.KL_loss(mean, log_variance)

    def step(self, real: list[Tensor], ids: Tensor, lengths: Tensor, noise: Tensor) -> None:
        """A step of each discriminator, then of the generator, in the order of their trainer."""
        words, sentence, padding = self.encode(ids, lengths)
        noise.normal_(0, 1)
        drawn = self.generator(noise, sentence, words, padding)
        for i, (judge, optimizer) in enumerate(zip(self.judges, self.of_judges, strict=True)):
            judge.zero_grad()
            self.judging_loss(i, real, drawn[0], sentence).backward()
            optimizer.step()
        self.generator.zero_grad()
        self.drawing_loss(drawn, words, sentence, lengths).backward()
        self.of_generator.step()


def authors_code(folder: Path) -> SimpleNamespace:
    """The authors' modules, with what ``REPLACED`` says."""
    if importlib.util.find_spec("easydict") is None:
        sys.modules["easydict"] = ModuleType("easydict")
        sys.modules["easydict"].EasyDict = Settings  # type: ignore[attr-defined]
    sys.modules["miscc"] = ModuleType("miscc")
    found = {}
    files = ("miscc/config", "GlobalAttention", "miscc/losses", "model")
    for file in files:
        name = file.replace("/", ".")
        source = (folder / f"{file}.py").read_text()
        for pattern, replacement in REPLACED:
            source = re.sub(pattern, replacement, source)
        module = sys.modules[name] = ModuleType(name)
        exec(compile(source, str(folder / f"{file}.py"), "exec"), module.__dict__)
        found[name.split(".")[-1]] = module
    return SimpleNamespace(**found)


def copy_parts(ours: nn.Module, theirs: nn.Module, kind: Any) -> None:
    """Copies weights of ours under the authors' names, all of them."""
    own = ours.state_dict()
    renamed = {}
    for part in parts_of(kind, theirs.state_dict()):
        for name, value in own.items():
            if name.startswith(f"{part.ours}."):
                there = part.published + name.removeprefix(part.ours)
                renamed[there] = value.reshape(theirs.state_dict()[there].shape)
    theirs.load_state_dict(renamed, strict=True)


def giga_gan_step(
    resolution: int, images: Tensor, tokens: Tensor, widths: dict[str, int], device: str
) -> Callable[[], None]:
    """A discriminator's and a generator's step of gigagan-pytorch, without its penalty.

    Args:
        resolution: side of the images.
        images: (B, 3, H, W) real ones.
        tokens: (B, L, D) features of the captions, in place of those of its CLIP.
        widths: ``channels`` at the largest side, ``channel_max``, ``candidates``, ``heads``,
            ``style_width``, ``branch_width``, ``branch_depth``.
        device: where it trains.

    Raises:
        ImportError: gigagan-pytorch or one of its requirements is missing.
    """
    import gigagan_pytorch as peer
    from gigagan_pytorch.open_clip import OpenClipAdapter

    class Features(OpenClipAdapter):
        """Features of captions that are given, in place of a CLIP's."""

        def __init__(self) -> None:
            nn.Module.__init__(self)

        @property
        def dim_latent(self) -> int:
            """D."""
            return tokens.shape[-1]

        def embed_texts(self, texts: list[str]) -> tuple[Tensor, Tensor]:
            """Pooled features and tokens of as many captions."""
            return tokens[: len(texts)].mean(1), tokens[: len(texts)]

    heads, width = widths["heads"], widths["branch_width"]
    text = {"dim": width, "depth": widths["branch_depth"], "heads": heads}
    text |= {"dim_head": width // heads}
    sides = (32, 16, 8)
    shape: dict[str, Any] = {
        "image_size": resolution,
        "dim_capacity": widths["channels"] // 2,
        "dim_max": widths["channel_max"],
        "num_conv_kernels": widths["candidates"],
    }
    head = widths["channel_max"] // heads
    generator = peer.Generator(
        **shape,
        dim_latent=widths["channel_max"],
        style_network={
            "dim": widths["style_width"],
            "depth": widths["mapping_depth"],
            "dim_text_latent": width,
        },
        text_encoder=peer.TextEncoder(clip=Features(), **text),
        self_attn_resolutions=sides,
        self_attn_heads=heads,
        self_attn_dim_head=head,
        self_attn_dot_product=False,
        cross_attn_resolutions=sides,
        cross_attn_heads=heads,
        cross_attn_dim_head=head,
    )
    discriminator = peer.Discriminator(
        **shape,
        text_encoder=peer.TextEncoder(clip=Features(), **text),
        attn_resolutions=sides,
        attn_heads=heads,
        attn_dim_head=head,
        multiscale_input_resolutions=(32, 16, 8),
    )
    gan = peer.GigaGAN(
        generator=generator,
        discriminator=discriminator,
        generator_contrastive_loss_weight=0.0,
        create_ema_generator_at_init=False,
        amp=device == "cuda",
        mixed_precision_type="bf16",
        accelerate_kwargs={"cpu": device == "cpu"},
    ).to(device)
    if device == "cuda":
        gan.to(memory_format=torch.channels_last)

    def given() -> Iterator[tuple[Tensor, list[str]]]:
        while True:
            yield images.clone(), ["a caption"] * len(images)

    def run() -> None:
        data = given()
        gan.train_discriminator_step(data)
        gan.train_generator_step(len(images), data)

    return run
