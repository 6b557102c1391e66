"""Checks that a run can be trained and scored, before any work is done.

What a protocol asks of the data set (splits, images, resolution), of the evaluator (networks that
are there) and of the model (knobs and their ranges) is known without an image or a trained weight.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from t2ibench.core.errors import ConfigError, ScoreError
from t2ibench.core.hashing import hash_json
from t2ibench.core.knobs import Knob, front_knob, resolve_knobs
from t2ibench.core.ranks import rank
from t2ibench.data.records import DataSource
from t2ibench.engine.build import build_module
from t2ibench.engine.context import Context
from t2ibench.engine.judges import (
    front_protocol,
    heldout_protocol,
    make_judges,
    prepared_for,
    test_protocol,
)
from t2ibench.engine.parts.clip import TrainedClip
from t2ibench.engine.parts.damsm import TextEncoderOfDAMSM, TrainedDAMSM
from t2ibench.engine.parts.frozen_backbone import FrozenBackbone
from t2ibench.engine.parts.pretrained_text import PretrainedTextEncoder
from t2ibench.engine.parts.text import ConfiguredTextEncoder
from t2ibench.engine.scoring_plan import fixed_knobs, front_settings
from t2ibench.engine.spec import RunSpec
from t2ibench.evaluation.protocol import WHOLE_SPLIT, Protocol
from t2ibench.families.contract import TextToImageModule

log = logging.getLogger(__name__)

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
    test = test_protocol(spec.protocol)
    parts = {
        "test": test,
        "front": front_protocol(spec.protocol),
        "heldout": heldout_protocol(spec.protocol, source),
    }
    for part, protocol in parts.items():
        if protocol is not None:
            protocol.check_source(prepared_for(spec.data.source, source, protocol))
            check_splits(spec, f"protocol.{part}", protocol, source)
    warn_of_floor(test, source)
    check_judges(context, test)
    check_model(context)


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
    # Refuses a disjoint reference beside which the split has no room for the prompts.
    protocol.first_place(f"{source.name}/{protocol.reference_split}", count)


def warn_of_floor(protocol: Protocol, source: DataSource) -> None:
    """Warns where neither the prompts' split nor train has N real images beside the reference.

    No refusal: published protocols draw more images than their data sets have (CUB's 30,000).
    """
    left = {name: source.count(name) for name in dict.fromkeys((protocol.split, "train"))}
    size = left.get(protocol.reference_split, 0)
    if protocol.reference_size != WHOLE_SPLIT:
        left |= {protocol.reference_split: size - protocol.reference_size} if size else {}
    elif size:
        left[protocol.reference_split] = protocol.first_place(protocol.reference_split, size)
    if rank() == 0 and max(left.values()) < protocol.num_images:
        counts = " and ".join(f"{count} of {name}" for name, count in left.items())
        log.warning(
            "Distances of data %s will stand without their real-against-real floor, which needs "
            "protocol.test.num_images=%d images outside the reference: %s are left.",
            *(source.name, protocol.num_images, counts),
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
    """Refuses judges that cannot give what the protocol promises; loads each once a process.

    Raises:
        MissingWeightsError: weights of networks are not on this machine.
        ScoreError: the network is missing that the protocol's distance is named for, or
            R-precision is promised and nothing judges alignment.
    """
    spec = context.spec
    evaluator = spec.evaluator.model_dump(mode="json")
    promised = [protocol.extractor, protocol.r_precision_folds > 0]
    known = hash_json([evaluator, spec.data.name, context.source.name, *promised])
    if known not in _loadable:
        judges = make_judges(spec, context.source, torch.device("cpu"))
        protocol.check_extractors([extractor.key for extractor in judges.extractors])
        protocol.check_alignment(bool(judges.dual_encoders))
        _loadable.add(known)


def check_model(context: Context) -> None:
    """Refuses a model that cannot be made of the data and its parts, and knobs that it has not.

    A model that stands on a run or a published CLIP is checked once those are there; they are not
    trained for it.

    Raises:
        ConfigError: an impossible resolution, width, loss or batch, an unknown knob, or a value
            out of range.
    """
    spec = context.spec
    own = ConfiguredTextEncoder | PretrainedTextEncoder | TextEncoderOfDAMSM
    made = TrainedClip | TrainedDAMSM | FrozenBackbone
    if not isinstance(spec.text, own) or not all(
        name == "first_stage" or isinstance(part, made) for name, part in spec.parts.items()
    ):
        return
    module = sketched(context)
    module.check_batch(
        spec.model.training.batch_size // (spec.trainer.devices * spec.trainer.num_nodes)
    )
    declared = module.knobs
    check_defaults(spec, declared)
    protocol = spec.protocol
    if not any((spec.knobs, protocol.knobs, protocol.knob_sweep, protocol.steps_sweep)):
        return
    knobs = resolve_knobs(declared, fixed_knobs(spec, declared))
    for setting in front_settings(protocol, front_knob(declared), knobs):
        try:
            resolve_knobs(declared, setting)
        except ConfigError as error:
            raise ConfigError(
                f"protocol.knob_sweep={protocol.knob_sweep}, "
                f"protocol.steps_sweep={protocol.steps_sweep}: {error}"
            ) from error


def check_defaults(spec: RunSpec, declared: Sequence[Knob]) -> None:
    """Refuses a knob's default out of its range, under the key that it was given by.

    Raises:
        ConfigError: names the key.
    """
    for knob in declared:
        if not knob.low <= knob.default <= knob.high:
            given = knob.name in spec.model.module.arguments
            raise ConfigError(
                f"{'model.module' if given else 'default of knobs'}.{knob.name}={knob.default} is "
                f"outside [{knob.low}, {knob.high}]; choose a value inside."
            )


def sketched(context: Context) -> TextToImageModule:
    """The model of a specification, whose weights are never made."""
    spec, shapes_only = context.spec, Context(context.spec)
    encoder = None
    if isinstance(spec.text, ConfiguredTextEncoder):
        encoder = spec.text.stand_in(context)  # before, as a pretrained one holds real weights
    for name, part in spec.parts.items():
        frozen = isinstance(part, FrozenBackbone)  # whose features' shapes a judge measures
        with nullcontext() if frozen else torch.device("meta"):
            shapes_only.modules[name] = part.restore(context if frozen else shapes_only, None)
    with torch.device("meta"):
        encoder = encoder or spec.text.restore(shapes_only, None)
        return build_module(spec, encoder, shapes_only.modules)
