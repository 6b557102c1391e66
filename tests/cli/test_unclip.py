"""unCLIP from the command line: its CLIP is trained once, shared, guarded and kept with the run."""

import os
import shutil
import signal

import pytest
import torch
from by_words import context_of
from by_words import trained as trained_by
from text.tiny import byte_pairs

from t2ibench.core.errors import MissingWeightsError
from t2ibench.core.files import read_json
from t2ibench.core.noise import SeededNoise
from t2ibench.core.types import Score
from t2ibench.data.cache import ArrayCache
from t2ibench.engine.assemble import untrained_module
from t2ibench.engine.interrupt import Interrupted
from t2ibench.engine.judges import Judges
from t2ibench.engine.load import open_run
from t2ibench.engine.parts import clip as clip_part
from t2ibench.engine.parts.clip import pairs_of, train_clip
from t2ibench.evaluation.leakage import find_leaks, flag
from t2ibench.metrics.dual_encoder import DualEncoder
from t2ibench.metrics.extractors.clip import TransformersClip
from t2ibench.runs.folder import Run
from t2ibench.training.checkpoint import read_whole

PROMPTS = ["a large red ring", "a small blue moon"]
TINY_CLIP = [
    "parts.clip.network.embed_dim=16",
    "parts.clip.network.vision.width=8",
    "parts.clip.network.text.width=16",
    "parts.clip.network.text.layers=1",
    "parts.clip.training.steps=3",
    "parts.clip.training.batch_size=8",
]


def words(root, *extra):
    return [
        "model=diffusion/fast_unclip",
        "data.source.num_train=64",
        "data.source.num_val=32",
        "data.source.num_test=8",
        f"paths.cache={root}/cache",
        f"paths.runs={root}/runs",
        "trainer=cpu",
        "trainer.progress=false",
        "budget.first_stage_images=16",
        "budget=images",
        "budget.amount=32",
        *extra,
    ]


def clip_of(context):
    """The run of a configuration's CLIP."""
    return context.spec.parts["clip"].run(context)


def judged_by(encoder, root):
    """Judges of which a dual encoder is the only network."""
    return Judges(
        source=context_of(words(root)).source,
        extractors=(),
        dual_encoders=(encoder,),
        grader=None,
        meaning=None,
        negatives=None,
        cache=ArrayCache(root),
    )


def leaks_of(module, encoder, root):
    """What the guard says of a module and a judge."""
    return find_leaks(module.guarded_parts(), judged_by(encoder, root).networks())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("unclip")


@pytest.fixture(scope="module")
def trained(root):
    return trained_by(words(root, *TINY_CLIP))


def test_the_clip_is_a_run_of_its_own_and_the_generator_keeps_a_copy(trained, root):
    manifest = read_json(trained.run.path / "manifest.json")["parts"]["clip"]
    stage = Run.at(root / "runs" / manifest["run"])
    assert stage.state == "finished"
    kept = DualEncoder.load(folder=trained.run.path / "parts" / "clip")
    assert kept.fingerprint == manifest["fingerprint"] == trained.module.clip.fingerprint
    card = read_json(stage.path / "clip" / "card.json")
    assert any(name.startswith("r@1") for name in card)
    assert trained.clock.parts_flops > stage.status()["clock"]["flops_per_image"] * 24
    # Its weights are nobody else's.
    shutil.rmtree(stage.path)
    again = open_run(trained.run)
    images = [m.generate(PROMPTS, SeededNoise([1, 2])) for m in (trained.module, again.module)]
    assert torch.equal(*images)
    for name in ("mean", "std", "axes", "spread", "dot_quantiles"):
        assert torch.equal(getattr(again.module.clip, name), getattr(trained.module.clip, name))
    untrained = untrained_module(context_of(words(root, *TINY_CLIP)))
    assert not torch.equal(again.module.clip.std, untrained.clip.std)


@pytest.mark.parametrize("kind", ["signal", "kill"])
def test_a_clip_that_was_cut_equals_one_that_was_not(root, monkeypatch, kind):
    tiny = [*TINY_CLIP, "parts.clip.training.steps=5", "trainer.checkpoint_every_seconds=0"]
    places = [f"paths.runs={root}/{kind}-{where}" for where in ("whole", "cut")]
    contexts = [context_of(words(root, *tiny, place)) for place in places]
    part = contexts[0].spec.parts["clip"]
    whole, cut = (clip_of(context) for context in contexts)
    train_clip(part, contexts[0], whole)
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

    monkeypatch.setattr(clip_part, "pairs_of", cut_draw)
    with pytest.raises(SystemExit if kind == "kill" else Interrupted) as ended:
        train_clip(part, contexts[1], cut)
    if kind == "signal":
        assert ended.value.signal == signal.SIGUSR2
    steps = read_whole(cut.checkpoint, ["steps"])["steps"]
    assert steps == (3 if kind == "kill" else 4)
    drawn.clear()
    monkeypatch.setattr(clip_part, "pairs_of", pairs_of)
    train_clip(part, contexts[1], cut)
    one, other = (DualEncoder.load(folder=run.path / "clip") for run in (whole, cut))
    assert one.fingerprint == other.fingerprint and cut.state == "finished"
    assert not cut.checkpoint.exists()


def test_another_seed_of_the_generator_shares_the_clip_and_another_clip_does_not(root):
    other = ["seed=1", "model.training.batch_size=16"]
    first, second = (context_of(words(root, *TINY_CLIP, *more)) for more in ([], other))
    assert clip_of(first) == clip_of(second)
    changed = context_of(words(root, *TINY_CLIP, "parts.clip.training.seed=1"))
    assert clip_of(first) != clip_of(changed)
    run = Run.named(root / "runs", "borrower", {}).begin({})
    found = [c.spec.parts["clip"].prepare(c, run) for c in (first, second)]
    assert found[0].facts == found[1].facts
    assert found[0].module.fingerprint == found[1].module.fingerprint


def test_the_guard_flags_the_clip_as_a_judge_and_no_other(trained, root):
    same = trained.module.clip.towers
    leaks = leaks_of(trained.module, same, root)
    assert [(leak.part, leak.network) for leak in leaks] == [("clip.towers", same.key)]
    score = Score(30.0, 8, 29.0, 31.0, f"clip_score[{same.key}|val|8]")
    assert "leak" in flag({score.key: score}, leaks)[score.key].note
    shipped = DualEncoder.load("shapes-clip-v1")
    assert leaks_of(trained.module, shipped, root) == []


def test_a_run_that_lost_its_clip_says_so(trained, tmp_path):
    lost = shutil.copytree(trained.run.path, tmp_path / "lost")
    shutil.rmtree(lost / "parts" / "clip")
    with pytest.raises(MissingWeightsError, match=r"lost/parts/clip"):
        open_run(Run.at(lost))


def test_a_wrong_clip_folder_is_one_sentence_before_any_work(tmp_path):
    nowhere = ["clip=published", f"parts.clip.path={tmp_path}/nowhere"]
    with pytest.raises(MissingWeightsError, match="nowhere") as error:
        trained_by(words(tmp_path, *nowhere))
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "runs").glob("*unclip*"))


def test_a_published_clip_by_path(tmp_path):
    folder = published_clip(tmp_path / "clip")
    trained = trained_by(words(tmp_path, "clip=published", f"parts.clip.path={folder}"))
    towers = TransformersClip(folder)
    assert trained.module.clip.fingerprint == towers.fingerprint
    assert not (trained.run.path / "parts").exists()
    again = open_run(trained.run)
    images = [m.generate(PROMPTS, SeededNoise([1, 2])) for m in (trained.module, again.module)]
    assert torch.equal(*images)
    assert [leak.part for leak in leaks_of(again.module, towers, tmp_path)] == ["clip.towers"]


def published_clip(folder):
    """A random CLIP of a few thousand weights in transformers' format."""
    import json

    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    tower["num_attention_heads"] = 2
    text = tower | {"vocab_size": 49408, "max_position_embeddings": 12}
    text |= {"bos_token_id": 49406, "eos_token_id": 49407}
    torch.manual_seed(0)
    vision = tower | {"image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    vocabulary, merges = byte_pairs()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 12}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_the_autoregressive_prior_trains_and_samples(root):
    prior = ["prior=autoregressive", "model.module.prior.dimensions=8"]
    trained = trained_by(words(root, *TINY_CLIP, *prior))
    assert "prior_temperature" in {knob.name for knob in trained.module.knobs}
    together = trained.module.generate(PROMPTS, SeededNoise([1, 2]))
    alone = trained.module.generate(PROMPTS[1:], SeededNoise([2]))
    torch.testing.assert_close(alone[0], together[1], atol=1e-4, rtol=1e-4)
