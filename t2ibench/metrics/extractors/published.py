"""Table of published weights that are not redistributed here: files, hashes, places.

An extractor asks ``locate`` for its weights; where they are absent the one sentence names file,
hash, place and command. ``t2ibench fetch`` reads the same table.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from t2ibench.core.errors import MissingWeightsError
from t2ibench.core.files import home_folder

_HUB = "https://huggingface.co"
_CLIP = f"{_HUB}/openai/clip-vit-large-patch14/resolve/32bd64288804d66eefd0ccbe215aa642df71cc41"
_CLIP_336 = (
    f"{_HUB}/openai/clip-vit-large-patch14-336/resolve/ce19dc912ca5cd21c8a653c79e251e808ccabcd1"
)
_DINO = f"{_HUB}/facebook/dinov2-large/resolve/47b73eefe95e8d44ec3623f8890bd894b6ea2d6c"
_LAION = f"{_HUB}/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main"


@dataclass(frozen=True)
class PublishedFile:
    """One published file: its name here, its address, its SHA-256."""

    name: str
    url: str
    sha256: str


@dataclass(frozen=True)
class PublishedWeights:
    """The weights of one network; ``str()`` is its entry in the list of ``t2ibench fetch``.

    Attributes:
        name: as typed after ``t2ibench fetch``.
        purpose: what they are for.
        size: of the download, for people.
        licence: of the weights.
        environment: variable that may name them elsewhere; empty: none.
        files: the weights first; several files make a folder.
        network: name of the network in score keys, where its class does not know it.
    """

    name: str
    purpose: str
    size: str
    licence: str
    environment: str
    files: tuple[PublishedFile, ...]
    network: str = ""

    def __str__(self) -> str:
        state = "here  " if self.present else "absent"
        main = self.files[0]
        return (
            f"  {state} {self.name:<10}{self.size:>7}  {self.licence:<11}{self.purpose}\n"
            f"         {main.name}  sha256 {main.sha256}\n         {self.target}"
        )

    @property
    def target(self) -> Path:
        """Path of the file, or of the folder of several."""
        return weights_root() / (self.name if len(self.files) > 1 else self.files[0].name)

    def path_of(self, file: PublishedFile) -> Path:
        """Path of one of the files."""
        return self.target / file.name if len(self.files) > 1 else self.target

    @property
    def present(self) -> bool:
        """True where every file is at its path; hashes were checked when they were put there."""
        return all(self.path_of(file).is_file() for file in self.files)

    def locate(self, path: str | Path | None) -> Path:
        """The file or folder: ``path``, else what the environment names, else the target.

        Raises:
            MissingWeightsError: there is none, in one sentence with what to do.
        """
        named = path or (os.environ.get(self.environment) if self.environment else None)
        chosen = Path(named).expanduser() if named else self.target
        found = chosen.is_file() if len(self.files) == 1 else (chosen / "config.json").is_file()
        if not found:
            raise MissingWeightsError(self.missing(chosen))
        return chosen

    def missing(self, path: Path) -> str:
        """The sentence of the error: file, hash, where to put it, the command."""
        main = self.files[0]
        kind = f"{main.name} and its configuration" if len(self.files) > 1 else main.name
        variable = f", or set {self.environment}=/path/to/it" if self.environment else ""
        return (
            f"{self.purpose} needs {kind} ({self.size}, SHA-256 {main.sha256}), and {path} is not "
            f"there: run `t2ibench fetch {self.name}` where there is a network, or put it at "
            f"{self.target}{variable}."
        )


def weights_root() -> Path:
    """Folder of all weights: ``T2IBENCH_WEIGHTS``, else ``weights`` in the cache folder."""
    cache = os.environ.get("T2IBENCH_CACHE") or home_folder() / ".cache" / "t2ibench"
    return Path(os.environ.get("T2IBENCH_WEIGHTS") or Path(cache) / "weights").expanduser()


INCEPTION = PublishedWeights(
    name="inception",
    purpose="fid",
    size="96 MB",
    licence="Apache-2.0",
    environment="T2IBENCH_INCEPTION",
    files=(
        PublishedFile(
            "weights-inception-2015-12-05-6726825d.pth",
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        ),
    ),
)

_TOKENIZER = (
    ("vocab.json", "3f0c4f7d2086b61b38487075278ea9ed04edb53a03cbb045b86c27190fa8fb69"),
    ("merges.txt", "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"),
    ("tokenizer.json", "a83e0809aa4c3af7208b2df632a7a69668c6d48775b3c3fe4e1b1199d1f8b8f4"),
    ("tokenizer_config.json", "deef455e52fa5e8151e339add0582e4235f066009601360999d3a9cda83b1129"),
    ("special_tokens_map.json", "f8c0d6c39aee3f8431078ef6646567b0aba7f2246e9c54b8b99d55c22b707cbf"),
)
"""OpenAI's CLIPs share one tokeniser: these files are those of ViT-L/14."""

CLIP_L14 = PublishedWeights(
    name="clip",
    purpose="clip_score with OpenAI's CLIP ViT-L/14",
    size="1.7 GB",
    licence="MIT",
    environment="T2IBENCH_CLIP",
    network="clip-vit-l-14/openai",
    files=(
        PublishedFile(
            "model.safetensors",
            f"{_CLIP}/model.safetensors",
            "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
        ),
        PublishedFile(
            "config.json",
            f"{_CLIP}/config.json",
            "8a09b467700c58138c29d53c605b34ebc69beaadd13274a8a2af8ad2c2f4032a",
        ),
        *(PublishedFile(name, f"{_CLIP}/{name}", sha256) for name, sha256 in _TOKENIZER),
        PublishedFile(
            "preprocessor_config.json",
            f"{_CLIP}/preprocessor_config.json",
            "910e70b3956ac9879ebc90b22fb3bc8a75b6a0677814500101a4c072bd7857bd",
        ),
    ),
)

CLIP_L14_336 = PublishedWeights(
    name="clip_336",
    purpose="clip_score and cmmd with OpenAI's CLIP ViT-L/14 at 336 px",
    size="1.7 GB",
    licence="MIT",
    environment="T2IBENCH_CLIP_336",
    network="clip-vit-l-14-336/openai",
    files=(
        PublishedFile(
            "pytorch_model.bin",
            f"{_CLIP_336}/pytorch_model.bin",
            "c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
        ),
        PublishedFile(
            "config.json",
            f"{_CLIP_336}/config.json",
            "51b1c14aabcdf639c4a0370eeda1010b773bbe1df78319c7d0f5882c22ac0ac0",
        ),
        *(PublishedFile(name, f"{_CLIP}/{name}", sha256) for name, sha256 in _TOKENIZER),
    ),
)

OPEN_CLIP_B32 = PublishedWeights(
    name="open_clip",
    purpose="clip_score with open_clip's ViT-B-32 (laion2b_s34b_b79k)",
    size="605 MB",
    licence="MIT",
    environment="T2IBENCH_OPEN_CLIP",
    files=(
        PublishedFile(
            "open_clip-ViT-B-32-laion2b_s34b_b79k.safetensors",
            f"{_LAION}/open_clip_model.safetensors",
            "ac4f8c4b88af6d963118cbf40ad93176d092abbedfcb752601ae1866352656e6",
        ),
    ),
)

DINOV2_L14 = PublishedWeights(
    name="dinov2",
    purpose="fd with DINOv2 ViT-L/14",
    size="1.2 GB",
    licence="Apache-2.0",
    environment="T2IBENCH_DINOV2",
    files=(
        PublishedFile(
            "model.safetensors",
            f"{_DINO}/model.safetensors",
            "399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
        ),
        PublishedFile(
            "config.json",
            f"{_DINO}/config.json",
            "12df51c069a2dc1305e34ba71ef58bc2407ea553b75f4722a1715c1bce3bbed0",
        ),
    ),
)

PUBLISHED = {w.name: w for w in (INCEPTION, CLIP_L14, CLIP_L14_336, OPEN_CLIP_B32, DINOV2_L14)}
"""Sets of weights by the name that ``t2ibench fetch`` takes."""
