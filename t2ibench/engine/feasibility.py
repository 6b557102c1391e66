"""Checks that a run can be scored once it is trained, before any work is done.

What a protocol asks of the data set (splits, images, resolution), of the evaluator (networks that
are there) and of the model (knobs and their ranges) is known without an image or a trained weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from t2ibench.core.errors import ConfigError, ScoreError
from t2ibench.core.hashing import hash_json
from t2ibench.core.knobs import Knob, front_knob, resolve_knobs
from t2ibench.data.records import DataSource
from t2ibench.engine.build import build_module
from t2ibench.engine.context import Context
from t2ibench.engine.judges import front_protocol, heldout_protocol, make_judges, test_protocol
from t2ibench.engine.parts.clip import TrainedClip
from t2ibench.engine.parts.damsm import TextEncoderOfDAMSM, TrainedDAMSM
from t2ibench.engine.parts.text import ConfiguredTextEncoder
from t2ibench.engine.scoring_plan import fixed_knobs, front_settings
from t2ibench.engine.spec import RunSpec
from t2ibench.evaluation.protocol import WHOLE_SPLIT, Protocol

SIZES = {"shapes": "data.source.num_{split}", "folder": "data.source.{split}_share"}
"""Keys by which a data set's splits grow, by its configuration."""

_loadable: set[str] = set()
"""Hashes of evaluators and data whose networks were loaded in this process."""


def check_scoring(context: Context) -> None:
    """Refuses a specification whose scores would fail after its training.

    Raises:
        T2IBenchError: the data set, the evaluator or the model do not fit the protocol.
    """
    spec, source = context.spec, context.source
    check_flips(spec, source)
    parts = {
        "test": test_protocol(spec.protocol),
        "front": front_protocol(spec.protocol),
        "heldout": heldout_protocol(spec.protocol, source),
    }
    for part, protocol in parts.items():
        if protocol is not None:
            protocol.check_source(source)
            check_splits(spec, f"protocol.{part}", protocol, source)
    check_judges(context, parts["test"])  # type: ignore[arg-type]
    check_knobs(context)


def check_splits(spec: RunSpec, key: str, protocol: Protocol, source: DataSource) -> None:
    """Refuses splits that a data set does not have, and more images than are in one.

    Raises:
        ScoreError: names the key of the protocol, and that of the data where there is one.
    """
    for name, split in (("split", protocol.split), ("reference_split", protocol.reference_split)):
        if split not in source.splits:
            raise ScoreError(
                f"{key}.{name}={split} is no split of data {source.name}; it has "
                f"{', '.join(source.splits)}."
            )
    more = SIZES.get(spec.data.name, "").format(split=protocol.reference_split)
    remedy = f", or raise {more}" if more and protocol.reference_split != "train" else ""
    if not source.count(protocol.split):
        raise ScoreError(
            f"{key}.split={protocol.split} has no image in data {source.name}; choose another split"
            f"{remedy}, or give more images."
        )
    count = source.count(protocol.reference_split)
    if protocol.reference_size != WHOLE_SPLIT and protocol.reference_size > count:
        raise ScoreError(
            f"{key}.reference_size={protocol.reference_size} real images are asked for and "
            f"{protocol.reference_split} of data {source.name} has {count}; set "
            f"{key}.reference_size={WHOLE_SPLIT} (all of them, a column of its own){remedy}, or "
            "give more images."
        )


def check_flips(spec: RunSpec, source: DataSource) -> None:
    """Refuses mirrored images where they cannot be made or their captions would be wrong.

    Raises:
        ConfigError: cached latents, or captions of the procedural world that tell left from right.
    """
    if not spec.data.flip:
        return
    if "first_stage" in spec.parts:
        raise ConfigError(
            f"data.flip=true needs images and model={spec.model.name} trains on cached latents; "
            "set data.flip=false."
        )
    if source.world is not None and source.world.level != "L1":
        raise ConfigError(
            f"data.flip=true makes captions of data.level={source.world.level} wrong, which tell "
            "left from right; set data.flip=false."
        )


def check_judges(context: Context, protocol: Protocol) -> None:
    """Loads the evaluator's networks once a process and lets them go.

    Raises:
        MissingWeightsError: a network's weights are not on this machine.
        ScoreError: the network is missing that the protocol's distance is named for.
    """
    spec = context.spec
    evaluator = spec.evaluator.model_dump(mode="json")
    known = hash_json([evaluator, spec.data.name, context.source.name, protocol.extractor])
    if known not in _loadable:
        judges = make_judges(spec, context.source, torch.device("cpu"))
        protocol.check_extractors([extractor.key for extractor in judges.extractors])
        _loadable.add(known)


def check_knobs(context: Context) -> None:
    """Refuses knobs that the model does not have, and values out of range.

    A model that stands on a run or a published CLIP is checked once those are there.

    Raises:
        ConfigError: an unknown knob, or a value out of range.
    """
    spec = context.spec
    given = (spec.knobs, spec.protocol.knobs, spec.protocol.knob_sweep, spec.protocol.steps_sweep)
    alone = isinstance(spec.text, ConfiguredTextEncoder | TextEncoderOfDAMSM) and all(
        name == "first_stage" or isinstance(part, TrainedClip | TrainedDAMSM)
        for name, part in spec.parts.items()
    )
    if not any(given) or not alone:
        return
    declared = declared_knobs(context)
    knobs = resolve_knobs(declared, fixed_knobs(spec, declared))
    for setting in front_settings(spec.protocol, front_knob(declared), knobs):
        try:
            resolve_knobs(declared, setting)
        except ConfigError as error:
            raise ConfigError(
                f"protocol.knob_sweep={spec.protocol.knob_sweep}, "
                f"protocol.steps_sweep={spec.protocol.steps_sweep}: {error}"
            ) from error


def declared_knobs(context: Context) -> Sequence[Knob]:
    """Knobs of the model, whose weights are never made."""
    spec, shapes_only = context.spec, Context(context.spec)
    encoder = None
    if isinstance(spec.text, ConfiguredTextEncoder):
        encoder = spec.text.stand_in(context)  # before, as a pretrained one holds real weights
    with torch.device("meta"):
        for name, part in spec.parts.items():
            shapes_only.modules[name] = part.restore(shapes_only, None)
        encoder = encoder or spec.text.restore(shapes_only, None)
        return build_module(spec, encoder, shapes_only.modules).knobs
