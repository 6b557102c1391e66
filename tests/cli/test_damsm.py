"""AttnGAN from the command line: its DAMSM is trained once, shared, guarded and kept."""

import os
import shutil
import signal

import pytest
import torch
from by_words import context_of
from by_words import trained as trained_by

from t2ibench.core.errors import ConfigError, MissingWeightsError
from t2ibench.core.files import read_json
from t2ibench.core.noise import SeededNoise
from t2ibench.engine.damsm_judge import DAMSMJudge
from t2ibench.engine.feasibility import check_model
from t2ibench.engine.interrupt import Interrupted
from t2ibench.engine.load import open_run
from t2ibench.engine.parts import damsm as damsm_part
from t2ibench.engine.parts.clip import pairs_of
from t2ibench.evaluation.interfaces import ImageTextEncoder
from t2ibench.evaluation.leakage import find_leaks
from t2ibench.metrics.alignment import r_precision
from t2ibench.metrics.dual_encoder import DualEncoder
from t2ibench.runs.folder import Run
from t2ibench.training.checkpoint import read_whole

PROMPTS = ["a large red ring", "a small blue moon"]
TINY = [
    "parts.damsm.network.image.channels=8",
    "parts.damsm.network.image.image_size=16",
    "parts.damsm.network.image.grid=4",
    "parts.damsm.training.steps=5",
    "parts.damsm.training.batch_size=8",
]


def words(root, *extra):
    return [
        "model=gan/attn_gan",
        "size=xs_narrow",
        "data.resolution=16",
        "data.source.num_train=48",
        "data.source.num_val=16",
        "data.source.num_test=8",
        f"paths.cache={root}/cache",
        f"paths.runs={root}/runs",
        "trainer=cpu",
        "trainer.progress=false",
        "budget=images",
        "budget.amount=40",
        *TINY,
        *extra,
    ]


def damsm_of(context):
    """The run of a configuration's DAMSM."""
    return context.spec.parts["damsm"].run(context)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("damsm")


@pytest.fixture(scope="module")
def trained(root):
    return trained_by(words(root))


def test_the_damsm_is_a_run_of_its_own_and_the_generator_keeps_a_copy(trained, root):
    manifest = read_json(trained.run.path / "manifest.json")
    found = manifest["parts"]["damsm"]
    stage = Run.at(root / "runs" / found["run"])
    assert stage.state == "finished"
    assert found["fingerprint"] == trained.module.damsm.fingerprint == manifest["content"]["damsm"]
    card = read_json(stage.path / "damsm" / "card.json")
    assert any(name.startswith("r@1") for name in card)
    assert trained.clock.parts_flops > stage.status()["clock"]["flops_per_image"] * 39
    shutil.rmtree(stage.path)
    again = open_run(trained.run)
    images = [m.generate(PROMPTS, SeededNoise([1, 2])) for m in (trained.module, again.module)]
    assert torch.equal(*images)


def test_the_guard_flags_the_damsm_as_a_judge_and_no_other(trained):
    judge = DAMSMJudge(str(trained.run.path / "parts" / "damsm"))
    assert isinstance(judge, ImageTextEncoder)
    guarded = trained.module.guarded_parts()
    leaks = find_leaks(guarded, {judge.key: judge})
    assert {leak.part for leak in leaks} == {"damsm.network", "text_encoder.text"}
    assert find_leaks(guarded, {"shipped": DualEncoder.load("shapes-clip-v1")}) == []
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    image, text = judge.image_features(pixels), judge.text_features([*PROMPTS, "a ring"])
    torch.testing.assert_close(image.norm(dim=1), torch.ones(3))
    assert r_precision(image, text, text.roll(1, 0)[:, None]).shape == (3,)
    with pytest.raises(MissingWeightsError, match="no folder of a DAMSM"):
        DAMSMJudge(None)


@pytest.mark.parametrize("kind", ["signal", "kill"])
def test_a_damsm_that_was_cut_equals_one_that_was_not(root, monkeypatch, kind):
    places = [f"paths.runs={root}/{kind}-{where}" for where in ("whole", "cut")]
    contexts = [context_of(words(root, place, "trainer.checkpoint_every_seconds=0"))
                for place in places]  # fmt: skip
    part = contexts[0].spec.parts["damsm"]
    whole, cut = (damsm_of(context) for context in contexts)
    part._train(contexts[0], whole)
    drawn = []

    def cut_draw(split, batch_size):
        draw = pairs_of(split, batch_size)

        def one(rng):
            drawn.append(1)
            if len(drawn) == 5:  # the first of all counts FLOPs
                if kind == "kill":
                    raise SystemExit
                os.kill(os.getpid(), signal.SIGUSR2)
            return draw(rng)

        return one

    monkeypatch.setattr(damsm_part, "pairs_of", cut_draw)
    with pytest.raises(SystemExit if kind == "kill" else Interrupted):
        part._train(contexts[1], cut)
    assert read_whole(cut.checkpoint, ["steps"])["steps"] == (3 if kind == "kill" else 4)
    monkeypatch.setattr(damsm_part, "pairs_of", pairs_of)
    part._train(contexts[1], cut)
    files = [run.path / "damsm" / "model.safetensors" for run in (whole, cut)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not cut.checkpoint.exists()


def test_another_generator_shares_the_damsm_and_another_recipe_does_not(root):
    other = ["seed=1", "model.training.batch_size=16", "text=word_lstm"]
    first, second = (context_of(words(root, *more)) for more in ([], other))
    assert damsm_of(first) == damsm_of(second)
    changed = context_of(words(root, "parts.damsm.training.seed=1"))
    assert damsm_of(first) != damsm_of(changed)


def test_a_published_damsm_by_its_folder(trained, root):
    folder = trained.run.path / "parts" / "damsm"
    layout = [w for w in TINY if ".training." not in w]
    image = "parts.damsm.network.image._target_=t2ibench.nn.regions.ConvRegions"
    sizes = ["parts.damsm.network.width=48", "parts.damsm.network.embedding_width=48", image,
             "+parts.damsm.network.image.groups=8"]  # fmt: skip
    given = [w for w in words(root) if w not in TINY] + [
        f"+{w}" for w in layout
    ] + ["damsm=published", f"parts.damsm.path={folder}", *sizes]  # fmt: skip
    context = context_of(given)
    part = context.spec.parts["damsm"]
    assert part.identity(context)["fingerprint"] == trained.module.damsm.fingerprint
    nowhere = context_of([*given[:-5], f"parts.damsm.path={root}/nowhere", *given[-4:]])
    with pytest.raises(MissingWeightsError, match="nowhere"):
        nowhere.spec.parts["damsm"].check(nowhere)


def test_a_text_tower_without_a_damsm_and_inception_without_weights_are_refused(root):
    with pytest.raises(ConfigError, match="model=gan/fast_painter has none"):
        trained_by(["model=gan/fast_painter", "text=damsm", f"paths.runs={root}/none",
                    f"paths.cache={root}/cache", "trainer=cpu"])  # fmt: skip
    given = [w for w in words(root) if "network.image" not in w]
    with pytest.raises(MissingWeightsError, match="inception_v3_google"):
        trained_by([*given, "damsm=inception", f"paths.runs={root}/none"])
    assert not (root / "none").exists()


def test_knobs_are_checked_before_the_damsm_is_trained(root):
    context = context_of(words(root, "knobs.truncation_psi=9"))
    with pytest.raises(ConfigError, match="truncation_psi"):
        check_model(context)
