"""A specification: every key has an effect, every mistake is one sentence, nothing is lost."""

import copy
import dataclasses

import pytest

from t2ibench.cli.compose import compose_config, compose_spec, config_files
from t2ibench.core.errors import ConfigError
from t2ibench.engine.components import Effect
from t2ibench.engine.identity import sampling_key
from t2ibench.engine.spec import RunSpec

MODELS = sorted(config_files("model"))


def leaves(value, key=""):
    """Every key of a plain configuration that holds no further keys."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}" if key else name)
    elif value != {}:
        yield key


@pytest.mark.parametrize("model", MODELS)
def test_every_key_has_an_effect(model):
    config = compose_config([f"model={model}"])
    effects = dict(RunSpec.read(config).effects())
    told = {key for key in leaves(config)}
    assert {key for key in told if key not in effects} == set()
    # Knobs that nobody set, and the path of an encoder that has none.
    assert {k.rsplit(".", 1)[-1] for k in set(effects) - told} <= {"knobs", "path"}
    assert all(isinstance(effect, Effect) for effect in effects.values())


@pytest.mark.parametrize("model", MODELS)
def test_a_specification_is_read_from_its_own_configuration(model):
    spec = compose_spec([f"model={model}", "evaluator=inception", "logger=wandb"])
    again = RunSpec.read(spec.config())
    assert again == spec
    assert again.config() == spec.config()


def test_it_is_frozen():
    spec = compose_spec([])
    with pytest.raises(Exception, match="frozen"):
        spec.seed = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.model.module.target = "os.system"


EXPECTED = {
    "seed": Effect.TRAINED,
    "trainer.precision": Effect.TRAINED,
    "trainer.devices": Effect.NEITHER,
    "trainer.log_every_images": Effect.NEITHER,
    "paths.cache": Effect.NEITHER,
    "logger.wandb": Effect.NEITHER,
    "data.level": Effect.CONTENT,
    "data.source.cache_dir": Effect.CONTENT,
    "data.resolution": Effect.TRAINED,
    "budget.amount": Effect.TRAINED,
    "protocol.test.num_images": Effect.SAMPLING,
    "evaluator.grader": Effect.SAMPLING,
    "model.name": Effect.NEITHER,
    "model.training.batch_size": Effect.TRAINED,
    "model.module.guidance_scale": Effect.SAMPLING,
    "model.module.process.schedule": Effect.TRAINED,
    "model.module.process.solver": Effect.SAMPLING,
    "model.module.process.num_steps": Effect.SAMPLING,
    "model.module.network.channels": Effect.TRAINED,
    "model.module.optimizer.lr": Effect.TRAINED,
    "parts.first_stage.module.autoencoder.channels": Effect.TRAINED,
    "parts.first_stage.module.optimizer.fused": Effect.NEITHER,
    "parts.first_stage.name": Effect.NEITHER,
    "text.encoder.width": Effect.TRAINED,
}


def test_settings_have_the_effects_that_a_scientist_expects():
    effects = dict(compose_spec(["model=diffusion/fast_unet"]).effects())
    assert {key: effects[key] for key in EXPECTED} == EXPECTED


def changed(config, key):
    """The configuration with another value of a number, a truth value or a word."""
    config = copy.deepcopy(config)
    *folders, last = key.split(".")
    node = config
    for folder in folders:
        node = node[folder]
    old = node[last]
    if isinstance(old, bool):
        node[last] = not old
    elif isinstance(old, (int, float)):
        node[last] = old + 1
    else:
        return None
    return config


@pytest.mark.parametrize("model", ["diffusion/fast_unet", "gan/fast_painter", "diffusion/adm"])
def test_what_is_trained_and_what_is_sampled_have_keys_of_their_own(model):
    config = compose_config([f"model={model}"])
    spec = RunSpec.read(config)
    trained, sampled = spec.values(Effect.TRAINED), sampling_key(spec)
    met = set()
    for key, effect in dict(spec.effects()).items():
        other = changed(config, key) if effect is not Effect.CONTENT else None
        try:
            found = None if other is None else RunSpec.read(other)
        except ConfigError:  # out of range: another number there is no choice
            continue
        if found is None:
            continue
        met.add(effect)
        assert (found.values(Effect.TRAINED) != trained) == (effect is Effect.TRAINED), key
        assert (sampling_key(found) != sampled) == (effect is Effect.SAMPLING), key
    assert met == {Effect.TRAINED, Effect.SAMPLING, Effect.NEITHER}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data.resolution=abc"], "data.resolution=abc must be a whole number."),
        (["budget.amount=abc"], "budget.amount=abc must be a number."),
        (["text=3"], "text=3 is unknown; choose one of base, char_cnn_rnn,"),
        (["study=foo"], "study=foo must be a mapping of keys."),
        (["knobs=3"], "knobs=3 must be a mapping of keys."),
        (["model.training.batch_size=0"], "model.training.batch_size=0 must be greater than"),
        (["protocol.front=3"], "protocol.front=3 must be a mapping of keys."),
        (["protocol=null"], "protocol=null is unknown; choose one of"),
        (["size=xl"], "size=xl: model=diffusion/fast_unet has no such size; choose xs, xs_narrow"),
        (["size=paper"], "is this project's own and has no published size; choose xs"),
        (["seed=true"], "seed=True must be a whole number."),
        (["seed=-1"], "seed=-1 must be greater than or equal to 0."),
        (["trainer.precision=half"], "trainer.precision=half is unknown; choose auto, 32-true"),
        (["knobs.guidance_scale=much"], "knobs.guidance_scale=much must be a number."),
        (["model.module.optimizer.lr=fast"], "model.module.optimizer.lr=fast must be a number."),
        (["model.module.process.solver=7"], "model.module.process.solver=7 must be a word."),
        (["+model.module.network.colour=3"], "model.module.network.colour is no argument of Fast"),
        (["parts.first_stage.training.images=0"], "parts.first_stage.training.images=0 must be"),
        (["evaluator.extractors.efficientnet=3"], "evaluator.extractors.efficientnet=3: it must"),
        (["data=folder"], "data.root must be given: data.root=…"),
        (["prior=diffusion"], "model.module.prior.width needs model.sizes.xs.prior.width"),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence):
    with pytest.raises(ConfigError) as error:
        compose_spec(words)
    said = str(error.value)
    assert sentence in said and "\n" not in said and said.endswith((".", "…"))
