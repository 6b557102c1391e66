"""``t2ibench score … --protocols``: which conventions there are, and the table's files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from t2ibench.cli.build import cache_root, create
from t2ibench.cli.compose import compose_config, config_dir
from t2ibench.cli.instruments import make_protocol
from t2ibench.core.errors import ConfigError, MissingWeightsError, ScoreError, T2IBenchError
from t2ibench.core.files import atomic_path
from t2ibench.data.cache import ArrayCache
from t2ibench.evaluation.protocol import WHOLE_SPLIT, Protocol
from t2ibench.evaluation.samples import SampleSet
from t2ibench.evaluation.sensitivity import (
    conventions,
    sensitivity,
    to_csv,
    to_markdown,
    to_text,
)


def known_protocols() -> list[str]:
    """The files of conf/protocol."""
    return sorted(path.stem for path in (config_dir() / "protocol").glob("*.yaml"))


def named_protocols(words: str) -> list[str]:
    """``all``, or names joined by commas.

    Raises:
        ConfigError: a name that conf/protocol does not have.
    """
    known = known_protocols()
    names = known if words == "all" else words.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"--protocols {words}: {unknown[0]!r} is unknown; choose all, or some of "
            f"{','.join(known)}."
        )
    return names


def score_sensitivity(
    samples: SampleSet,
    source: Any,
    cfg: DictConfig,
    words: str,
    overrides: Sequence[str],
    out: Path,
) -> None:
    """Prints the table, writes ``protocols.csv`` and ``protocols.md``.

    Args:
        samples: one set of images.
        source: the data set they are compared with.
        cfg: with the set's own protocol; its evaluator is replaced by all conventions, unless
            the user names one.
        words: as typed after ``--protocols``.
        overrides: the other words typed.
        out: folder of the two files.

    Raises:
        ScoreError: no convention can be scored.
    """
    told = any(o.startswith("evaluator") for o in overrides)
    node = cfg if told else compose_config(["evaluator=conventions"])
    extractors, refused = [], []
    for label, target in node.evaluator.extractors.items():
        try:
            extractors.append(create(target))
        except (MissingWeightsError, ConfigError) as error:
            refused.append(f"{label}: {error}")
    protocols, missing = _protocols(samples, source, cfg, words)
    refused += missing
    for protocol in protocols:
        if protocol.extractor and protocol.extractor not in [e.key for e in extractors]:
            refused.append(f"{protocol.name}: {protocol.extractor} is not on this machine.")
    chosen = conventions(protocols, extractors, "train" in source.splits)
    cache = ArrayCache(cache_root(cfg) / "features")
    rows, unfit = sensitivity(samples, chosen, source.split, cache)
    refused += unfit
    if not rows:
        raise ScoreError(f"these images fit no convention: {' '.join(refused)}")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("protocols.csv", to_csv(rows)),
        ("protocols.md", to_markdown(rows, refused)),
    ):
        with atomic_path(out / name) as aside:
            aside.write_text(text, encoding="utf-8")
    sys.stdout.write(to_text(rows, refused))


def _protocols(
    samples: SampleSet, source: Any, cfg: DictConfig, words: str
) -> tuple[list[Protocol], list[str]]:
    """The protocols that these images fit, the images' own first, and why others do not."""
    own = make_protocol(cfg, "test")
    found, refused = [], []
    if words == "all":
        # The set as it is: every image, against as many or all real ones.
        whole = own if len(samples) == own.num_images else replace(own, num_images=len(samples))
        real = len(source.split(whole.reference_split))
        size = WHOLE_SPLIT if real < whole.reference_size else whole.reference_size
        found.append(replace(whole, name="as sampled", reference_size=size))
    for name in named_protocols(words):
        protocol = make_protocol(compose_config([f"protocol={name}"]), "test")
        try:
            protocol.check_source(source)
            if len(samples) < protocol.num_images:
                raise ScoreError(
                    f"it scores {protocol.num_images} images, the set has {len(samples)}."
                )
            if not any(replace(protocol, name=other.name) == other for other in found):
                found.append(protocol)
        except T2IBenchError as error:
            refused.append(f"{name}: {error}")
    return found, refused
