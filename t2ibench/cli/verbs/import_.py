"""Published weights as a run that samples and is scored: diffusion models, and the GAN line.

t2ibench import v1-5-pruned-emaonly.safetensors out=runs/sd15
t2ibench import sd-v1-4.ckpt out=runs/sd14 use_ema=false tokenizer=clip-vit-large-patch14/
t2ibench import stable-diffusion-v1-5/ out=runs/sd15 data=folder data.root=PICTURES
t2ibench import txt2img-large.ckpt out=runs/ldm tokenizer=vocab.txt
t2ibench import bird_AttnGAN2.pth text_encoder200.pth vocabulary=captions.pickle out=runs/birds
t2ibench import netG_StackGAN2.pth text=char_cnn_rnn out=runs/birds2
t2ibench sample runs/sd15 "a lighthouse at dusk" knobs.num_steps=50

Stable Diffusion v1 (also its inpainting UNet) and LDM text-to-image are read. Every tensor of the
file must be used, and every weight of the model be in the file. use_ema=true takes the running
average where the file has one. Without tokenizer= CLIP's own vocabulary is used. Other key=value
words are configuration, for example the data set that `t2ibench score` compares with.

Of the GAN line generators of AttnGAN (with their DAMSM's text encoder, its words in vocabulary=,
and its image encoder where it is there) and of StackGAN-v2 (with text= of the encoder that it was
trained with) are read as their authors saved them. They sample; they have no discriminators to be
trained against.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from t2ibench.cli.arguments import OPTION
from t2ibench.core.errors import ConfigError

OPTIONS = {"out": "", "tokenizer": "", "use_ema": "true", "vocabulary": ""}


def run(arguments: Sequence[str]) -> int:
    """Reads, checks and writes the run folder ``out``, which is whole or absent."""
    words = [a for a in arguments if not OPTION.match(a)]
    typed = [match for a in arguments if (match := OPTION.match(a))]
    given = {match[1]: match[2] for match in typed}
    overrides = [f"{name}={value}" for name, value in given.items() if name not in OPTIONS]
    chosen = OPTIONS | {name: value for name, value in given.items() if name in OPTIONS}
    check_words(words, chosen)
    sources = [Path(word).expanduser() for word in words]
    out = Path(chosen["out"]).expanduser()

    from t2ibench.cli.compose import compose_spec
    from t2ibench.core.files import whole_folder
    from t2ibench.engine.context import Context
    from t2ibench.engine.published import import_run
    from t2ibench.engine.published_gan import import_gan
    from t2ibench.interop.compvis import read_single_file
    from t2ibench.interop.diffusers_folder import read_folder
    from t2ibench.interop.gan_files import is_gan_file, read_gan
    from t2ibench.interop.gan_overrides import gan_overrides
    from t2ibench.interop.run_overrides import model_overrides

    if len(sources) > 1 or is_gan_file(sources[0]):
        vocabulary = Path(chosen["vocabulary"]).expanduser() if chosen["vocabulary"] else None
        gan = read_gan(sources, vocabulary)
        spec = compose_spec([*gan_overrides(gan), *overrides])
        with whole_folder(out) as aside:
            count = import_gan(gan, Context(spec), aside)
        return told(count, out)
    (source,) = sources
    tokenizer = Path(chosen["tokenizer"]).expanduser() if chosen["tokenizer"] else None
    if source.is_dir():
        published = read_folder(source, tokenizer)
    else:
        published = read_single_file(source, tokenizer, chosen["use_ema"] == "true")
    spec = compose_spec([*model_overrides(published), *overrides])
    with whole_folder(out) as aside:
        count = import_run(published, Context(spec), aside)
    return told(count, out)


def told(count: int, out: Path) -> int:
    """Says what was written and how to use it."""
    sys.stdout.write(
        f'{count:,} weights in {out}; images: t2ibench sample {out} "a prompt" out=pictures\n'
    )
    return 0


def check_words(words: Sequence[str], options: dict[str, str]) -> None:
    """Checks that a source, a new folder, a truth value and an existing tokeniser are given.

    Raises:
        ConfigError: a word or option is missing or wrong.
    """
    several = all(word.endswith((".pth", ".pt", ".safetensors")) for word in words)
    if not words or words[0].startswith("-") or (len(words) > 1 and not several):
        raise ConfigError(
            "import needs one file or folder: t2ibench import model.safetensors out=runs/NAME "
            "(AttnGAN: netG.pth text_encoder.pth vocabulary=captions.pickle)."
        )
    if not options["out"]:
        raise ConfigError("import needs the run folder to write: out=runs/NAME.")
    if Path(options["out"]).expanduser().exists():
        raise ConfigError(f"out={options['out']} exists already; name a new run folder.")
    if options["use_ema"] not in ("true", "false"):
        raise ConfigError(f"use_ema={options['use_ema']} must be true or false.")
    if options["tokenizer"] and not Path(options["tokenizer"]).expanduser().exists():
        raise ConfigError(
            f"tokenizer={options['tokenizer']} is not there; give a tokeniser's folder or file."
        )
