"""Generators of the GAN line and DAMSM's encoders as their authors saved them: bare state dicts.

A file is known by its tensors: AttnGAN's generator attends (``h_net2.att``), StackGAN-v2's joins
(``h_net2.jointConv``), DAMSM's text encoder is an LSTM, its image encoder Inception-v3 with two
projections. PyTorch of that time did not count batches in batch norm; such counters may be missing.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, zeros

from t2ibench.core.errors import CheckpointError
from t2ibench.core.files import read_json
from t2ibench.core.hashing import hash_file
from t2ibench.interop.check import check_fit
from t2ibench.interop.compvis import shapes_of
from t2ibench.interop.files import read_tensors
from t2ibench.interop.layouts import shape
from t2ibench.interop.tensor_names import Part, split_known, to_published

Kind = Literal["attn_gan", "stack_gan_v2", "damsm_text", "damsm_image"]

MARKS: dict[Kind, str] = {
    "attn_gan": "h_net2.att.conv_context.weight",
    "stack_gan_v2": "h_net2.jointConv.0.weight",
    "damsm_text": "rnn.weight_ih_l0",
    "damsm_image": "emb_cnn_code.weight",
}
"""A tensor that a file of each kind has and no other."""

GENERATORS: tuple[Kind, ...] = ("attn_gan", "stack_gan_v2")
COUNTER = "num_batches_tracked"
PARALLEL = "module."
"""Prefix of all names where a network was saved inside ``DataParallel``."""

REMEDY = "download it again, or give files of AttnGAN, its DAMSM or StackGAN-v2 as released"


@dataclass(frozen=True)
class GANFile:
    """One network's tensors.

    Attributes:
        kind: what it is.
        path: the file.
        tensors: as the file names them.
        parts: names' mapping to ours.
    """

    kind: Kind
    path: Path
    tensors: Mapping[str, Tensor]
    parts: Sequence[Part]

    def renamed(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under our names; counters that the file lacks are zero.

        Args:
            own: our network's tensors by name (meta tensors will do).

        Raises:
            CheckpointError: a tensor is missing, surplus or of another shape; all are listed.
        """
        expected = shapes_of(to_published(own, self.parts))
        found = shapes_of(self.tensors)
        counters = {n for n in expected if n.endswith(COUNTER) and n not in found}
        needed = {name: size for name, size in expected.items() if name not in counters}
        check_fit(needed, found, str(self.path), REMEDY)
        renamed, _ = split_known(self.tensors, self.parts)
        return renamed | {n: zeros(t.shape, dtype=t.dtype) for n, t in own.items()
                          if n not in renamed}  # fmt: skip


@dataclass(frozen=True)
class GeneratorLayout:
    """Sizes of a published generator, read from its tensors.

    Attributes:
        channels: of the first stage's feature map (``GF_DIM``).
        doublings: of the first stage.
        stages: images a caption.
        residual_blocks: of a later stage.
        text_width: of the sentence vector.
        condition_width: of the augmented condition.
        noise_width: of z.
    """

    channels: int
    doublings: int
    stages: int
    residual_blocks: int
    text_width: int
    condition_width: int
    noise_width: int

    @property
    def resolution(self) -> int:
        """Side of the last image in pixels."""
        return 4 * 2 ** (self.doublings + self.stages - 1)

    @staticmethod
    def of(tensors: Mapping[str, Tensor], source: str) -> GeneratorLayout:
        """Reads the sizes.

        Raises:
            CheckpointError: a tensor that tells a size is missing.
        """
        shapes = shapes_of(tensors)
        augmentation = shape(shapes, "ca_net.fc.weight", source)
        condition = augmentation[0] // 4
        return GeneratorLayout(
            channels=shape(shapes, "img_net1.img.0.weight", source)[1],
            doublings=sum(f"h_net1.upsample{i}.1.weight" in shapes for i in range(1, 9)),
            stages=sum(f"img_net{i}.img.0.weight" in shapes for i in range(1, 9)),
            residual_blocks=sum(f"h_net2.residual.{i}.block.0.weight" in shapes for i in range(99)),
            text_width=augmentation[1],
            condition_width=condition,
            noise_width=shape(shapes, "h_net1.fc.0.weight", source)[1] - condition,
        )


@dataclass(frozen=True)
class PublishedGAN:
    """A generator with what it was published with.

    Attributes:
        generator: its file.
        layout: its sizes.
        text: DAMSM's text encoder, of AttnGAN.
        image: DAMSM's image encoder, where it was given.
        vocabulary: the text encoder's words; their ids begin at 1.
        facts: the manifest's entry on the source.
    """

    generator: GANFile
    layout: GeneratorLayout
    text: GANFile | None
    image: GANFile | None
    vocabulary: Sequence[str]
    facts: dict[str, Any] = field(default_factory=dict)


def is_gan_file(path: Path) -> bool:
    """True where a ``.pth`` holds one of these networks."""
    if path.suffix not in (".pth", ".pt"):
        return False
    return kind_of(read_tensors(path)) is not None


def read_gan(paths: Sequence[Path], vocabulary: Path | None) -> PublishedGAN:
    """A generator's file with those of DAMSM's encoders, in any order.

    Args:
        paths: the files.
        vocabulary: words of the text encoder: ``captions.pickle`` of the authors, a .json list, or
            a .txt file of a word a line; the first has id 1.

    Raises:
        CheckpointError: a file cannot be read or is of no known kind, one is missing, or the words
            are not those of the text encoder.
    """
    files: dict[Kind, GANFile] = {}
    for path in paths:
        found = read_gan_file(path)
        if found.kind in files:
            raise CheckpointError(
                f"{path} and {files[found.kind].path} are both {found.kind}; give one of them."
            )
        files[found.kind] = found
    generators = [files[kind] for kind in GENERATORS if kind in files]
    if len(generators) != 1:
        raise CheckpointError(
            f"{', '.join(map(str, paths))}: {len(generators)} generators; give one (netG….pth), "
            "and for AttnGAN, the text encoder that it was trained with (text_encoder….pth)."
        )
    (generator,) = generators
    text = files.get("damsm_text")
    if generator.kind == "attn_gan" and (text is None or vocabulary is None):
        raise CheckpointError(
            f"{generator.path} reads captions by DAMSM: give its text encoder (text_encoder….pth) "
            "too, and its words as vocabulary=captions.pickle."
        )
    layout = GeneratorLayout.of(generator.tensors, str(generator.path))
    words = [] if vocabulary is None else read_words(vocabulary)
    if text is not None and len(words) + 1 != len(text.tensors["encoder.weight"]):
        raise CheckpointError(
            f"vocabulary={vocabulary} has {len(words)} words and {text.path.name} vectors of "
            f"{len(text.tensors['encoder.weight']) - 1}; give the words of its own data."
        )
    return PublishedGAN(
        generator=generator,
        layout=layout,
        text=text,
        image=files.get("damsm_image"),
        vocabulary=words,
        facts={
            "format": generator.kind,
            "file": generator.path.name,
            "sha256": {file.path.name: hash_file(file.path) for file in files.values()},
        },
    )


def read_gan_file(path: Path) -> GANFile:
    """One file.

    Raises:
        CheckpointError: it cannot be read, or is of no known kind.
    """
    tensors = {n.removeprefix(PARALLEL): t for n, t in read_tensors(path).items()}
    kind = kind_of(tensors)
    if kind is None:
        raise CheckpointError(
            f"{path} is neither a generator of AttnGAN or StackGAN-v2 nor an encoder of DAMSM: "
            f"none of its {len(tensors)} tensors is {', '.join(MARKS.values())}; {REMEDY}."
        )
    return GANFile(kind, path, tensors, parts_of(kind, tensors))


def kind_of(tensors: Mapping[str, Tensor]) -> Kind | None:
    """Kind of a file's tensors, by their mark; None for any other."""
    names = {name.removeprefix(PARALLEL) for name in tensors}
    return next((kind for kind, mark in MARKS.items() if mark in names), None)


def parts_of(kind: Kind, tensors: Mapping[str, Tensor]) -> list[Part]:
    """Modules under their two names; numbers of stages are those that the file has."""
    if kind == "damsm_text":
        return [Part("encoder", "embedding"), Part("rnn", "lstm")]
    if kind == "damsm_image":
        layers = {n.split(".")[0] for n in tensors if n[0].isupper()}
        own = [Part(name, f"layers.{name}") for name in sorted(layers)]
        return [*own, Part("emb_features", "region"), Part("emb_cnn_code", "image")]
    stages = range(2, 9)
    found = [Part("ca_net.fc", "augmentation.fc"), Part("h_net1.fc", "first.start.fc")]
    found += [Part(f"h_net1.upsample{i}", f"first.upsamplings.{i - 1}") for i in range(1, 9)]
    found += [Part(f"img_net{i}.img.0", f"colours.{i - 1}") for i in range(1, 9)]
    for i in stages:
        ours = f"later.{i - 2}"
        found.append(Part(f"h_net{i}.residual", f"{ours}.residual"))
        found.append(Part(f"h_net{i}.upsample", f"{ours}.upsampling"))
        if kind == "attn_gan":
            found.append(Part(f"h_net{i}.att.conv_context", f"{ours}.context.words", True))
        else:
            found.append(Part(f"h_net{i}.jointConv", f"{ours}.joint"))
    return found


def read_words(path: Path) -> list[str]:
    """A text encoder's words in the order of their ids, the end (id 0) left out.

    Raises:
        CheckpointError: the file is missing, damaged or of another kind.
    """
    if not path.is_file():
        raise CheckpointError(f"vocabulary={path} is not a file; give captions.pickle of the data.")
    if path.suffix == ".txt":
        return path.read_text(encoding="utf-8").split()
    if path.suffix == ".json":
        words = read_json(path)
    else:
        words = words_of_captions(path)
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        raise CheckpointError(f"vocabulary={path} holds no list of words; give captions.pickle.")
    return words


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, dictionaries, numbers and strings; every class and function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuses the object that a pickle names.

        Raises:
            UnpicklingError: always.
        """
        raise pickle.UnpicklingError(f"{module}.{name}")


def words_of_captions(path: Path) -> list[str]:
    """The words of the authors' ``captions.pickle``: [train, test, id -> word, word -> id].

    Raises:
        CheckpointError: it holds other objects, or is another file.
    """
    try:
        with open(path, "rb") as file:
            content = PlainUnpickler(file, encoding="latin1").load()
        numbered = content[2]
        return [numbered[i] for i in range(1, len(numbered))]
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"vocabulary={path} holds {error}, which could run code when it is read, and was not "
            "read; give a .txt file of a word a line."
        ) from error
    except (EOFError, IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"vocabulary={path} is not captions.pickle as AttnGAN's authors wrote it "
            f"({type(error).__name__}); give that, or a .txt file of a word a line."
        ) from error
