"""Specification of a run: typed, frozen, checked as a whole once.

``RunSpec.read`` takes a resolved configuration (plain containers) and refuses mistakes in one
sentence; no other code reads raw configuration or resolves a default. Every field declares its
``Effect``: the trained weights by value or by content, generated images and scores, or neither. A
run's identity and the key of its scores are built from that alone (``engine/identity.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from t2ibench.core.errors import ConfigError
from t2ibench.engine.components import (
    NOTHING,
    TARGET,
    Component,
    Effect,
    effects_within,
    plain,
    read_value,
    sentence_of,
    to_config,
)
from t2ibench.runs.clock import Budget, BudgetUnit

Trained = Effect.TRAINED
Content = Effect.CONTENT
Sampling = Effect.SAMPLING
Neither = Effect.NEITHER

ConditioningName = Literal["concat", "modulation", "cross_attention", "none"]
PrecisionName = Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true"]
LONGEST_NAME = 200
"""Bytes of a name that becomes a folder's; file systems end at 255."""

SUBGROUPS = {
    "evaluator/extractor": "evaluator.extractors",
    "evaluator/dual_encoder": "evaluator.dual_encoders",
}
"""Groups within a group, of which several files are chosen as a list, and the key they fill."""

DecayName = Literal["constant", "cosine", "halving", "linear"]


def component_or_mapping(node: Any) -> Any:
    """A component, or the mapping that it will be read from."""
    if isinstance(node, Component):
        return node
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        raise ValueError(f"it must be a mapping with {TARGET}, the import path of a class")
    return node


ComponentField = Annotated[Any, BeforeValidator(component_or_mapping), PlainSerializer(to_config)]
"""A component, read when its key in the configuration is known (``RunSpec.read``)."""


class Settings(BaseModel):
    """A section of the configuration: frozen, without unknown keys, each field with its effect.

    Components are read before the rest, where their keys are known (``RunSpec.read``).
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        arbitrary_types_allowed=True,
        allow_inf_nan=False,
    )

    def effects(self, prefix: str = "") -> Iterator[tuple[str, Effect]]:
        """Configuration keys below this section, each with its effect."""
        for name in type(self).model_fields:
            yield from effects_of(f"{prefix}{name}", getattr(self, name), self._effect(name))
        for name, value in (self.model_extra or {}).items():
            for key, _ in effects_within(f"{prefix}{name}", value):
                yield key, Content

    def values(self, effect: Effect) -> dict[str, Any]:
        """Values of one effect, JSON-ready and nested as in the configuration."""
        found: dict[str, Any] = {}
        for name in type(self).model_fields:
            kept = values_of(getattr(self, name), self._effect(name), effect)
            if kept is not NOTHING:
                found[name] = kept
        return found

    @classmethod
    def _effect(cls, name: str) -> Effect | None:
        """Declared effect of a field; None where its own fields declare theirs."""
        marks = [m for m in cls.model_fields[name].metadata if isinstance(m, Effect)]
        return marks[0] if marks else None


def effects_of(key: str, value: Any, effect: Effect | None) -> Iterator[tuple[str, Effect]]:
    """Keys below a field's value; the field's declared effect holds for all of them."""
    if isinstance(value, Settings):
        for inner, own in value.effects(f"{key}."):
            yield inner, effect or own
    elif isinstance(value, Component) and effect in (None, Trained):
        yield from value.effects()
    elif isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from effects_of(f"{key}.{name}", inner, effect)
    elif isinstance(value, Component):
        for inner, _ in value.effects():
            yield inner, effect  # type: ignore[misc]
    elif effect is not None:
        yield key, effect
    elif value:
        raise AssertionError(f"{key} declares no effect")


def values_of(value: Any, own: Effect | None, wanted: Effect) -> Any:
    """The part of a field's value that has the wanted effect, or ``NOTHING``."""
    if own is not None and own is not wanted and not (own is Trained and holds_more(value)):
        return NOTHING
    if isinstance(value, Settings):
        return (value.values(wanted) if own is None else to_plain(value)) or NOTHING
    if isinstance(value, Component):
        return value.values(wanted) or NOTHING
    if own is None and isinstance(value, Mapping):
        inner = {name: values_of(v, None, wanted) for name, v in value.items()}
        return {name: v for name, v in inner.items() if v is not NOTHING} or NOTHING
    return plain(value, wanted) if own is wanted else NOTHING


def holds_more(value: Any) -> bool:
    """True where a trained field's value may hold settings of other effects: a component."""
    return isinstance(value, Component)


def to_plain(value: Settings) -> dict[str, Any]:
    """All values of a section, JSON-ready."""
    return value.model_dump(mode="json")


SettingsT = TypeVar("SettingsT", bound=Settings)


def checked(cls: type[SettingsT], given: Any, key: str) -> SettingsT:
    """Settings of a class, read from a section of a configuration.

    Raises:
        ConfigError: a key that is unknown, missing, of another type or out of range.
    """
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        raise ConfigError(sentence_of(error, key)) from None


# ---- the sections of a configuration ----


class TrainingRecipe(Settings):
    """Recipe of training a model or a first stage.

    Attributes:
        batch_size: images in a batch over all devices.
        warmup_images: images over which the learning rate rises linearly.
        decay: schedule of the learning rate after the warm-up.
        ema_half_life_images: half-life of the weight average; 0 does not average.
    """

    batch_size: Annotated[int, Field(ge=1), Trained]
    warmup_images: Annotated[int, Field(ge=0), Trained]
    decay: Annotated[DecayName, Trained]
    ema_half_life_images: Annotated[float, Field(ge=0), Trained]


class ModelSpec(Settings):
    """A model: its family's module and recipe.

    Attributes:
        name: name as typed by the user (``model=…``).
        family: name of the family, as printed in leaderboards.
        origin: ``paper`` where layout, losses, sampler and recipe are the paper's, smaller only
            in width, depth and resolution; ``own`` where they are this project's.
        default_conditioning: value of ``conditioning`` where the user chooses none.
        resolution_multiple: number of which the resolution must be a multiple, besides the first
            stage's factor.
        training: training recipe.
        module: the family's module; text encoder and parts are given to its constructor.
    """

    name: Annotated[str, Neither]
    family: Annotated[str, Neither]
    origin: Annotated[Literal["paper", "own"], Neither]
    default_conditioning: Annotated[ConditioningName, Neither]
    resolution_multiple: Annotated[int, Field(ge=1), Neither]
    training: TrainingRecipe
    module: Annotated[ComponentField, Trained]


class DataSpec(Settings):
    """A data set; keys of its own (``level``, ``root``, …) enter its source.

    Attributes:
        name: name as typed by the user.
        resolution: side of the images in pixels.
        flip: True to mirror half of the training images.
        source: the data set, identified by the content of its training split.
    """

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Neither]
    resolution: Annotated[int, Field(ge=1), Trained]
    flip: Annotated[bool, Trained]
    source: Annotated[ComponentField, Content]


class BudgetSpec(Settings):
    """Budget after which training stops.

    Attributes:
        unit: limited quantity.
        amount: limit in that unit.
        include_parts: True to charge the cost of first stage, CLIP and base to it.
        first_stage_images: a first stage's own budget; null: that of its file.
    """

    unit: Annotated[BudgetUnit, Trained]
    amount: Annotated[float, Field(gt=0, allow_inf_nan=False), Trained]
    include_parts: Annotated[bool, Trained]
    first_stage_images: Annotated[Annotated[int, Field(ge=1)] | None, Content]

    def budget(self) -> Budget:
        """The budget as the clock takes it."""
        return Budget(self.unit, self.amount, self.include_parts)


class TrainerSpec(Settings):
    """Hardware on which a run is trained, and intervals of its reports.

    Attributes:
        accelerator: Lightning's accelerator; ``auto`` takes a GPU where there is one.
        devices: number of devices on each machine.
        num_nodes: number of machines.
        strategy: strategy of several devices.
        precision: ``auto`` is bf16-mixed on an accelerator and 32-true on a CPU.
        log_every_images: interval of the learning curves.
        checkpoint_every_seconds: shortest interval of checkpoints (2 % of the time at most).
        progress: True to show a progress bar.
        validate_every_images: interval of the losses on fixed validation images; 0: none.
        compile: True to compile the trained networks.
    """

    accelerator: Annotated[str, Neither]
    devices: Annotated[int, Field(ge=1), Neither]
    num_nodes: Annotated[int, Field(ge=1), Neither]
    strategy: Annotated[Literal["auto", "ddp", "fsdp"], Neither]
    precision: Annotated[PrecisionName, Trained]
    log_every_images: Annotated[int, Field(ge=1), Neither]
    checkpoint_every_seconds: Annotated[float, Field(ge=0), Neither]
    progress: Annotated[bool, Neither]
    validate_every_images: Annotated[int, Field(ge=0), Neither]
    compile: Annotated[bool, Neither]


class PromptSetSpec(Settings):
    """Prompts that a protocol draws and images that it compares with (``evaluation.Protocol``)."""

    split: Annotated[str, Sampling]
    num_images: Annotated[int, Field(ge=1), Sampling]
    caption: Annotated[Literal["first", "seeded", "every"], Sampling]
    sampling_seed: Annotated[int, Sampling]
    reference_split: Annotated[str, Sampling]
    reference_size: Annotated[int, Field(ge=-1), Sampling]
    reference_records: Annotated[Literal["auto", "disjoint", "shared"], Sampling]


class ImagesSpec(Settings):
    """Cropping and resizing of a protocol's real images; 0 and empty: as the data set has them."""

    resolution: Annotated[int, Field(ge=0), Sampling]
    crop: Annotated[str, Sampling]
    resize: Annotated[str, Sampling]


class ProtocolSpec(Settings):
    """Protocol of sampling and scoring (conf/protocol)."""

    name: Annotated[str, Sampling]
    test: PromptSetSpec
    front: PromptSetSpec
    heldout: Annotated[PromptSetSpec | None, Sampling]
    images: ImagesSpec
    extractor: Annotated[str, Sampling]
    r_precision_folds: Annotated[int, Field(ge=0), Sampling]
    memorisation: Annotated[bool, Sampling]
    choose_by: Annotated[Literal["fd", "kid"] | None, Sampling]
    knobs: Annotated[dict[str, float], Sampling]
    knob_sweep: Annotated[list[float] | None, Sampling]
    steps_sweep: Annotated[list[Annotated[int, Field(ge=1)]] | None, Sampling]
    batch_size: Annotated[int, Field(ge=1), Sampling]
    cost_seconds: Annotated[float, Field(ge=0), Sampling]


class EvaluatorSpec(Settings):
    """Networks that judge images (conf/evaluator)."""

    extractors: Annotated[
        dict[str, ComponentField], BeforeValidator(lambda given: given or {}), Sampling
    ]
    dual_encoders: Annotated[
        dict[str, ComponentField], BeforeValidator(lambda given: given or {}), Sampling
    ]
    grader: Annotated[bool, Sampling]


def folder_name(name: str) -> str:
    """A name that a folder can have.

    Raises:
        ValueError: it leads elsewhere, is hidden, or is too long.
    """
    if not name.strip() or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError("it names a folder; choose a name without / that begins with no dot")
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"it names a folder; choose at most {LONGEST_NAME} bytes")
    return name


class StudySpec(Settings):
    """Study that a run belongs to (conf/config.yaml)."""

    name: Annotated[str, AfterValidator(folder_name), Neither]
    retries: Annotated[int, Field(ge=0), Neither]
    cells_per_job: Annotated[int, Field(ge=1), Neither]
    objective: Annotated[str | None, Neither]
    models: Annotated[list[str], Neither]
    cells: Annotated[list[str], Neither]


class PathsSpec(Settings):
    """Folders of runs, caches and data."""

    runs: Annotated[str, Neither]
    cache: Annotated[str, Neither]
    data: Annotated[str, Neither]

    @property
    def runs_folder(self) -> Path:
        """Folder of all runs."""
        return Path(self.runs)

    @property
    def cache_folder(self) -> Path:
        """Folder of content-addressed caches."""
        return Path(self.cache)


class WandbSpec(Settings):
    """Settings of W&B (conf/logger/wandb.yaml)."""

    project: Annotated[str, Neither]
    group: Annotated[str | None, Neither]
    mode: Annotated[Literal["auto", "online", "offline", "disabled"], Neither]


class LoggerSpec(Settings):
    """Loggers of learning curves and scores besides the run's own files."""

    wandb: Annotated[WandbSpec | None, Neither]


def read_part(node: Any) -> Any:
    """A part of a run (``engine/parts``) from its component.

    Raises:
        ConfigError: not a part, or a key of it that is unknown, missing or of another type.
    """
    if not isinstance(node, Component):
        return component_or_mapping(node)
    cls: Any = node.cls
    if not (issubclass(cls, Settings) and hasattr(cls, "restore")):
        raise ConfigError(f"{node.key}.{TARGET}={cls.__name__} is no part of a run; name one.")
    return checked(cls, dict(node.arguments), node.key)


PartField = Annotated[Any, BeforeValidator(read_part), PlainSerializer(lambda part: part.config())]
"""A part of a run, as its class reads it."""


class RunSpec(Settings):
    """Complete specification of a run.

    Attributes:
        model: family and recipe.
        size: the width and depth chosen; acts through the model.
        conditioning: mechanism by which text enters the network; acts through the model.
        text: the text encoder (``engine/parts/text.py``).
        parts: further parts of the model by the module's argument: first stage, CLIP, base.
        data: images and captions.
        budget: budget after which training stops.
        seed: seed of initial weights, data order and training noise.
        start: a trained run to begin with, by folder, name or hash; null: random weights.
        base: the run that a cascade's stage enlarges; acts through ``parts.base``.
        trainer: devices, precision, intervals.
        protocol: protocol of sampling and scoring.
        evaluator: the networks that judge.
        knobs: sampling knobs that the user fixes.
        logger: loggers besides the run's own files.
        paths: folders of runs, caches and data.
        study: the study that the run belongs to.
    """

    model: ModelSpec
    size: Annotated[str, Neither]
    conditioning: Annotated[ConditioningName, Trained]
    text: PartField
    parts: dict[str, PartField]
    data: DataSpec
    budget: BudgetSpec
    seed: Annotated[int, Field(ge=0), Trained]
    start: Annotated[str | None, Content]
    base: Annotated[str | None, Content]
    trainer: TrainerSpec
    protocol: ProtocolSpec
    evaluator: EvaluatorSpec
    knobs: Annotated[dict[str, float], Sampling]
    logger: LoggerSpec
    paths: PathsSpec
    study: StudySpec

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> RunSpec:
        """Reads a specification from a resolved configuration.

        Raises:
            ConfigError: a key that is unknown, missing, of another type or out of range, or a
                component that may not be named or does not have an argument.
        """
        try:
            # Once without looking into components: a wrong value is told by the key that was
            # typed (data.resolution), not by one that repeats it (data.source.resolution).
            cls.model_validate(config)
            return cls.model_validate(
                {key: read_value(value, key) for key, value in config.items()}
            )
        except ValidationError as error:
            raise ConfigError(sentence_of(error)) from None

    def config(self) -> dict[str, Any]:
        """Configuration that it was read from, JSON-ready."""
        return self.model_dump(mode="json")

    @property
    def label(self) -> str:
        """Readable part of a run's name."""
        return f"{self.model.name.replace('/', '-')}-{self.size}-seed{self.seed}"

    @model_validator(mode="after")
    def _choice_needs_an_extractor(self) -> RunSpec:
        if self.protocol.choose_by is not None and not self.evaluator.extractors:
            raise ConfigError(
                f"protocol.choose_by={self.protocol.choose_by} needs an extractor and "
                "evaluator.extractors is empty; set protocol.choose_by=null."
            )
        return self

    @model_validator(mode="after")
    def _frechet_choice_needs_images(self) -> RunSpec:
        """Refuses a knob's choice by a Fréchet distance that prefers too little diversity."""
        main = next(iter(self.evaluator.extractors.values()), None)
        if self.protocol.choose_by != "fd" or not isinstance(main, Component):
            return self
        front, width = self.protocol.front, getattr(main.cls, "width", 0)
        fewest = min(front.num_images, front.reference_size or front.num_images)
        if front.reference_size == -1:
            fewest = front.num_images
        if fewest <= width:
            raise ConfigError(
                f"protocol.choose_by=fd needs more images than the {width} features of "
                f"{main.key}, protocol.front has {fewest}: with fewer, this distance is lowest for "
                "images less diverse than real ones; set protocol.choose_by=kid, or raise "
                "protocol.front.num_images and protocol.front.reference_size."
            )
        return self
