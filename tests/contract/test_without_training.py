"""A generator without training is trained, scored and opened as every other."""

import shutil

import numpy as np
import pytest
import torch
from contract.retrieval import BUCKETS, Retrieval

from t2ibench.cli.compose import compose_config
from t2ibench.core.errors import BudgetError, CheckpointError, ConfigError
from t2ibench.core.noise import SeededNoise, sample_seeds
from t2ibench.core.pixels import to_pixels
from t2ibench.engine.context import Context
from t2ibench.engine.generator import Generator
from t2ibench.engine.identity import named_run
from t2ibench.engine.load import open_folder, open_run
from t2ibench.engine.score import score_run
from t2ibench.engine.spec import RunSpec
from t2ibench.engine.train import train

IMAGES = 200
PROMPTS = ["a large red ring", "a small blue moon", "a zyzzyva"]


@pytest.fixture(autouse=True, scope="module")
def trusted():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2IBENCH_TRUSTED", "contract")
        yield


@pytest.fixture(scope="module")
def spec_of(tmp_path_factory, shared_cache):
    """Specifications of the module of ``contract.retrieval``, from words and its arguments."""
    runs = tmp_path_factory.mktemp("runs")

    def made(*words, rare_words=False, chance=0.01):
        config = compose_config(
            [
                "debug=smoke",
                "budget.amount=1000",
                f"data.source.num_train={IMAGES}",
                "data.source.num_val=64",
                "data.source.num_test=64",
                "protocol.cost_seconds=0.01",
                f"paths.cache={shared_cache}",
                f"paths.runs={runs}",
                *words,
            ]
        )
        config["parts"] = {}
        config["model"] |= {
            "name": "early/retrieval",
            "family": "retrieval",
            "resolution_multiple": 1,
            "module": {
                "_target_": "contract.retrieval.Retrieval",
                "resolution": config["data"]["resolution"],
                "rare_words": rare_words,
                "chance": chance,
            },
        }
        return RunSpec.read(config)

    return made


@pytest.fixture(scope="module")
def loaded(spec_of):
    return train(Context.of(spec_of()))


def test_a_package_that_is_not_trusted_is_refused(spec_of, monkeypatch):
    monkeypatch.delenv("T2IBENCH_TRUSTED")
    with pytest.raises(ConfigError, match="T2IBENCH_TRUSTED=contract"):
        spec_of()


def test_one_that_looks_at_nothing_is_refused(spec_of, monkeypatch):
    monkeypatch.delattr(Retrieval, "build_index")
    with pytest.raises(ConfigError, match="Retrieval has trains=False and no build_index"):
        train(Context.of(spec_of("seed=9")))


def test_it_is_trained_by_one_look(loaded, spec_of):
    assert isinstance(loaded.module, Retrieval) and not loaded.module.training
    assert loaded.run.state == "trained" and loaded.run.weights.exists()
    assert loaded.clock.images_seen == IMAGES
    assert loaded.clock.flops == 0 and loaded.clock.seconds > 0
    pixels = np.load(loaded.run.path / "index" / "pixels.npy")
    assert np.array_equal(pixels, loaded.source.split("train").images)
    written = (loaded.run.path / "index" / "pixels.npy").stat().st_mtime_ns
    again = train(Context.of(spec_of()))
    assert again.run.path == loaded.run.path
    assert (again.run.path / "index" / "pixels.npy").stat().st_mtime_ns == written


def test_images_are_those_whose_captions_are_most_alike(loaded):
    train_split = loaded.source.split("train")
    captions = [record.captions[0] for record in train_split.records[:8]]
    images = loaded.module.generate(captions, SeededNoise(range(8)), {"chance": 0.0})
    found = to_pixels(images)
    for caption, image in zip(captions, found, strict=True):
        (row, *_) = (train_split.pixels(slice(None)) == image).flatten(1).all(1).nonzero()[0]
        assert set(train_split.records[int(row)].captions[0].split()) == set(caption.split())


def test_images_belong_to_their_seed_and_prompt(loaded):
    module = loaded.module
    together = module.generate(PROMPTS, SeededNoise([5, 6, 7]), {"chance": 5.0})
    alone = module.generate(PROMPTS[2:], SeededNoise([7]), {"chance": 5.0})
    assert torch.equal(alone[0], together[2])
    many = module.generate(PROMPTS[:1] * 20, SeededNoise(range(20)), {"chance": 5.0})
    assert len({image.numpy().tobytes() for image in many}) > 5
    other = module.generate(PROMPTS[1:2] * 20, SeededNoise(range(20)), {"chance": 0.01})
    assert not torch.equal(other, many)


def test_it_is_opened_from_its_folder(loaded):
    generator = Generator(open_folder(loaded.run.path))
    assert isinstance(generator.loaded.module.pixels, np.memmap)
    drawn = generator.generate(PROMPTS, seed=3).pixels
    noise = SeededNoise(sample_seeds(PROMPTS, 3))
    assert torch.equal(drawn, to_pixels(loaded.module.generate(PROMPTS, noise)))


def test_it_is_scored(loaded):
    scores = score_run(loaded)
    assert loaded.run.state == "finished"
    assert [point.value for point in scores.front] == [1.0]
    assert {score.metric for score in scores.chosen.scores.values()} >= {"fd", "clip_score"}
    assert scores.cost["train_flops"] == 0 and scores.cost["train_images"] == IMAGES
    assert scores.cost["sample_flops_per_image"] == 2 * BUCKETS * IMAGES
    assert scores.model["family"] == "retrieval"
    assert score_run(open_run(loaded.run)).chosen == scores.chosen


def test_what_its_look_computes_is_counted(spec_of, loaded):
    found = train(Context.of(spec_of(rare_words=True)))
    assert found.run.path != loaded.run.path
    assert found.clock.flops == 2 * IMAGES * BUCKETS
    assert not torch.equal(found.module.weights, loaded.module.weights)
    opened = open_folder(found.run.path)
    assert torch.equal(opened.module.weights, found.module.weights)


def test_an_argument_of_sampling_finds_the_same_run(spec_of, loaded):
    assert train(Context.of(spec_of(chance=2.0))).run.path == loaded.run.path


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["budget.amount=100"], "amount=100 images is less than .* 200 images cost .200.; raise"),
        (
            ["budget.unit=flops", "budget.amount=10"],
            "amount=10 flops is less than .* .51200.; raise",
        ),
    ],
)
def test_a_budget_below_its_look_is_refused(spec_of, words, sentence):
    context = Context.of(spec_of(*words, rare_words=True))
    with pytest.raises(BudgetError, match=sentence):
        train(context)
    run = named_run(context)
    assert run.state == "failed" and not run.trained


def test_lost_weights_are_told(loaded, tmp_path):
    copied = tmp_path / loaded.run.path.name
    shutil.copytree(loaded.run.path, copied)
    (copied / "checkpoints" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        open_folder(copied)
