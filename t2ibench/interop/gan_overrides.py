"""The configuration of a published GAN, as words of the command line."""

from __future__ import annotations

from t2ibench.interop.gan_files import PublishedGAN
from t2ibench.interop.run_overrides import assign

GENERATOR = "generator."
"""Prefix of the generator's tensors in a run of the GAN line."""


def gan_overrides(published: PublishedGAN) -> list[str]:
    """The configuration of a published generator, as Hydra overrides; it only samples."""
    layout = published.layout
    generator = {
        "channels": layout.channels,
        "residual_blocks": layout.residual_blocks,
        "noise_width": layout.noise_width,
        "condition_width": layout.condition_width,
    }
    words = [
        f"model=gan/{published.generator.kind}",
        "size=paper",
        f"data.resolution={layout.resolution}",
        *assign("model.module.generator", generator),
        "model.module.discriminator=null",
    ]
    if published.text is not None:
        embedding = published.text.tensors["encoder.weight"].shape[1]
        network = {"width": layout.text_width, "embedding_width": embedding}
        words += ["damsm=published", *assign("parts.damsm.network", network)]
        if published.image is None:
            words.append("parts.damsm.network.image=null")
    return words
