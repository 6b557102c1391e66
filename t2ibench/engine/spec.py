"""The specification of a run: typed, frozen, checked whole once.

``RunSpec.read`` takes a resolved configuration (plain containers) and refuses what is wrong in one
sentence; below it nobody reads raw configuration, resolves a default or asks for a key. Every
field says what it changes (``Effect``): the trained weights by value or by content, generated
images and scores, or neither. A run's identity and the key of its scores are built from that alone
(``engine/identity.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
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
DecayName = Literal["constant", "cosine", "linear"]



def named_class(node: Any) -> Any:
    """A component, or the mapping that it will be read from."""
    if isinstance(node, Component):
        return node
    if not isinstance(node, Mapping) or not isinstance(node.get(TARGET), str):
        raise ValueError(f"it must be a mapping with {TARGET}, the import path of a class")
    return node


ComponentField = Annotated[Any, BeforeValidator(named_class), PlainSerializer(to_config)]
"""A component, read when its key in the configuration is known (``RunSpec.read``)."""


class Settings(BaseModel):
    """A part of the configuration: frozen, without unknown keys, each field with its effect.

    Components are read before the rest, where their keys are known (``RunSpec.read``).
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True
    )

    def effects(self, prefix: str = "") -> Iterator[tuple[str, Effect]]:
        """Every configuration key below this part, with its effect."""
        for name in type(self).model_fields:
            yield from effects_of(f"{prefix}{name}", getattr(self, name), self._effect(name))
        for name, value in (self.model_extra or {}).items():
            for key, _ in effects_within(f"{prefix}{name}", value):
                yield key, Content

    def values(self, effect: Effect) -> dict[str, Any]:
        """All values of one effect, JSON-ready and nested as in the configuration."""
        found: dict[str, Any] = {}
        for name in type(self).model_fields:
            kept = values_of(getattr(self, name), self._effect(name), effect)
            if kept is not NOTHING:
                found[name] = kept
        return found

    @classmethod
    def _effect(cls, name: str) -> Effect | None:
        """What a field is declared to change; None where its own fields say."""
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
    """What a field's value has of the wanted effect, or ``NOTHING``."""
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
    """Whether a trained field may hold settings of other effects: components do."""
    return isinstance(value, Component)


def to_plain(value: Settings) -> dict[str, Any]:
    """All of a part, JSON-ready."""
    return value.model_dump(mode="json")


SettingsT = TypeVar("SettingsT", bound=Settings)


def checked(cls: type[SettingsT], given: Any, key: str) -> SettingsT:
    """Settings of a class from a part of a configuration.

    Raises:
        ConfigError: a key that is unknown, missing, of another type or out of range.
    """
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        raise ConfigError(sentence_of(error, key)) from None


# ---- the parts of a configuration ----


class TrainingRecipe(Settings):
    """How a model or a first stage is trained.

    Attributes:
        batch_size: of all devices together.
        warmup_images: over which the learning rate rises linearly.
        decay: what it does afterwards.
        ema_half_life_images: half-life of the weight average; 0 does not average.
    """

    batch_size: Annotated[int, Field(ge=1), Trained]
    warmup_images: Annotated[int, Field(ge=0), Trained]
    decay: Annotated[DecayName, Trained]
    ema_half_life_images: Annotated[float, Field(ge=0), Trained]


class ModelSpec(Settings):
    """A model: its family's module and recipe.

    Attributes:
        name: as typed by the user (``model=…``).
        family: as printed in leaderboards.
        origin: ``paper`` where layout, losses, sampler and recipe are the paper's, smaller only
            in width, depth and resolution; ``own`` where they are this project's.
        default_conditioning: what ``conditioning`` is where the user says nothing.
        resolution_multiple: what the resolution must be a multiple of, beside the first stage's
            factor.
        training: how it is trained.
        module: the family; text encoder and parts are given to it when it is made.
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
        name: as typed by the user.
        resolution: side of the images in pixels.
        flip: whether half of the training images are mirrored.
        source: the data set; what counts is what its training split holds.
    """

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Neither]
    resolution: Annotated[int, Field(ge=1), Trained]
    flip: Annotated[bool, Trained]
    source: Annotated[ComponentField, Content]


class BudgetSpec(Settings):
    """When training stops.

    Attributes:
        unit: what is limited.
        amount: how much of it.
        include_parts: whether what first stage, CLIP and base cost is charged to it.
        first_stage_images: a first stage's own budget; null: what its file says.
    """

    unit: Annotated[BudgetUnit, Trained]
    amount: Annotated[float, Field(gt=0, allow_inf_nan=False), Trained]
    include_parts: Annotated[bool, Trained]
    first_stage_images: Annotated[Annotated[int, Field(ge=1)] | None, Content]

    def budget(self) -> Budget:
        """The clock's budget."""
        return Budget(self.unit, self.amount, self.include_parts)


class TrainerSpec(Settings):
    """On what a run is trained, and how often it says so.

    Attributes:
        accelerator: Lightning's, ``auto`` for whatever there is.
        devices: of each machine.
        num_nodes: machines.
        strategy: how several devices share the work.
        precision: ``auto`` is bf16-mixed on an accelerator and 32-true on a CPU.
        log_every_images: interval of the learning curves.
        checkpoint_every_seconds: interval of checkpoints.
        progress: whether a progress bar is shown.
        validate_every_images: interval of the losses on fixed validation images; 0: none.
        compile: whether the trained networks are compiled.
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

    @property
    def accelerator_anywhere(self) -> str:
        """The accelerator where a trained run is opened on another machine than its own."""
        return "cpu" if self.accelerator == "cpu" else "auto"


class PromptSetSpec(Settings):
    """Which prompts a protocol draws and what it compares with (``evaluation.Protocol``)."""

    split: Annotated[str, Sampling]
    num_images: Annotated[int, Field(ge=1), Sampling]
    caption: Annotated[Literal["first", "seeded", "every"], Sampling]
    sampling_seed: Annotated[int, Sampling]
    reference_split: Annotated[str, Sampling]
    reference_size: Annotated[int, Field(ge=-1), Sampling]


class ImagesSpec(Settings):
    """How a protocol's real images became squares; 0 and empty: as the data set has them."""

    resolution: Annotated[int, Field(ge=0), Sampling]
    crop: Annotated[str, Sampling]
    resize: Annotated[str, Sampling]


class ProtocolSpec(Settings):
    """How images are asked for and judged (conf/protocol)."""

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
    """The networks that judge (conf/evaluator)."""

    extractors: Annotated[
        dict[str, ComponentField], BeforeValidator(lambda given: given or {}), Sampling
    ]
    dual_encoder: Annotated[str | None, Sampling]
    grader: Annotated[bool, Sampling]


class StudySpec(Settings):
    """The study that a run belongs to (conf/config.yaml)."""

    name: Annotated[str, Field(min_length=1), Neither]
    retries: Annotated[int, Field(ge=0), Neither]
    cells_per_job: Annotated[int, Field(ge=1), Neither]
    objective: Annotated[str | None, Neither]
    models: Annotated[list[str], Neither]
    cells: Annotated[list[str], Neither]


class PathsSpec(Settings):
    """Where things are kept."""

    runs: Annotated[str, Neither]
    cache: Annotated[str, Neither]
    data: Annotated[str, Neither]

    @property
    def runs_folder(self) -> Path:
        """The folder of all runs."""
        return Path(self.runs)

    @property
    def cache_folder(self) -> Path:
        """The folder of content-addressed caches."""
        return Path(self.cache)


class WandbSpec(Settings):
    """W&B's settings (conf/logger/wandb.yaml)."""

    project: Annotated[str, Neither]
    group: Annotated[str | None, Neither]
    mode: Annotated[str, Neither]


class LoggerSpec(Settings):
    """Who is told of learning curves and scores beside the run's own files."""

    wandb: Annotated[WandbSpec | None, Neither]


def read_part(node: Any) -> Any:
    """A part of a run (``engine/parts``) from its component.

    Raises:
        ConfigError: no part, or a key of it that is unknown, missing or of another type.
    """
    if not isinstance(node, Component):
        return named_class(node)
    cls: Any = node.cls
    if not (issubclass(cls, Settings) and hasattr(cls, "restore")):
        raise ConfigError(f"{node.key}.{TARGET}={cls.__name__} is no part of a run; name one.")
    return checked(cls, dict(node.arguments), node.key)


PartField = Annotated[
    Any, BeforeValidator(read_part), PlainSerializer(lambda part: part.config())
]
"""A part of a run, as its class reads it."""


class RunSpec(Settings):
    """Everything that makes a run.

    Attributes:
        model: family and recipe.
        size: the width and depth chosen; acts through the model.
        conditioning: how text meets image; acts through the model.
        text: the text encoder (``engine/parts/text.py``).
        parts: what else the model stands on, by the module's argument: first stage, CLIP, base.
        data: images and captions.
        budget: when training stops.
        seed: of initial weights, data order and training noise.
        start: a trained run to begin with, by folder, name or hash; null: random weights.
        base: the run that a cascade's stage stands on; acts through ``parts.base``.
        trainer: devices, precision, intervals.
        protocol: how images are asked for and judged.
        evaluator: the networks that judge.
        knobs: sampling knobs that the user fixes.
        logger: who is told beside the run's files.
        paths: where things are kept.
        study: the study it belongs to.
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
        """A specification from a resolved configuration.

        Raises:
            ConfigError: a key that is unknown, missing, of another type or out of range, or a
                component that may not be named or does not have an argument.
        """
        try:
            # Once without looking into components: a wrong value is told by the key that was
            # typed (data.resolution), not by one that repeats it (data.source.resolution).
            cls.model_validate(config)
            return cls.model_validate({key: read_value(value, key) for key, value in config.items()})
        except ValidationError as error:
            raise ConfigError(sentence_of(error)) from None

    def config(self) -> dict[str, Any]:
        """The configuration that it was read from, JSON-ready."""
        return self.model_dump(mode="json")

    @property
    def label(self) -> str:
        """The readable part of a run's name."""
        return f"{self.model.name.replace('/', '-')}-{self.size}-seed{self.seed}"

    @model_validator(mode="after")
    def _choice_needs_an_extractor(self) -> RunSpec:
        if self.protocol.choose_by is not None and not self.evaluator.extractors:
            raise ConfigError(
                f"protocol.choose_by={self.protocol.choose_by} needs an extractor and "
                "evaluator.extractors is empty; set protocol.choose_by=null."
            )
        return self
