"""Whatever would fail when a trained run is scored is refused before it is trained."""

import numpy as np
import pytest
import torch
from contract.models import FILES, Case
from PIL import Image

from t2ibench.cli.compose import compose_spec
from t2ibench.cli.main import main
from t2ibench.core.errors import T2IBenchError
from t2ibench.data.folder import FolderSource
from t2ibench.engine import feasibility
from t2ibench.engine.context import Context
from t2ibench.engine.feasibility import check_scoring, sketched
from t2ibench.engine.judges import make_judges
from t2ibench.engine.train import check
from t2ibench.metrics.grader import Grader

MODEL = ["model=gan/fast_painter", "trainer=cpu"]

ONE_EACH = ["data.source.test_share=0.4", "data.source.val_share=0.3"] + [
    f"protocol.{part}.{name}=1"
    for part in ("test", "front")
    for name in ("num_images", "reference_size")
]
"""Shares of a dozen pictures, and a protocol for which one is enough."""


@pytest.fixture(autouse=True)
def nothing_is_prepared(tmp_path, monkeypatch):
    """A cache of its own, in which no image may appear."""
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("T2IBENCH_RUNS", str(tmp_path / "runs"))
    yield
    assert not list(tmp_path.glob("cache/**/*.npy")) and not (tmp_path / "runs").exists()


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures with captions."""
    folder = tmp_path / "pics"
    folder.mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"picture {i}")
    return folder


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.source.num_test=20"], r"protocol\.test\.reference_size=500 .* has 20; .*num_test"),
        (["protocol.test.split=tset"], r"protocol\.test\.split=tset is no split.*train, val, test"),
        (["protocol.test.reference_split=tset"], r"protocol\.test\.reference_split=tset is no"),
        (["protocol.front.split=vla"], r"protocol\.front\.split=vla is no split"),
        (["data.source.num_val=100"], r"protocol\.front\.reference_size=256 .* has 100"),
        (["protocol=coco30k_gan"], "compares images of 256 px, data shapes has 32 px"),
        (["protocol.extractor=nope"], "measures with nope"),
        (["evaluator/dual_encoder=nope"], r"evaluator/dual_encoder=nope is unknown; choose one of"),
        (["knobs.guidance_scale=2"], r"knobs\.guidance_scale is not a knob.*truncation_psi"),
        (["knobs.truncation_psi=-3"], r"knobs\.truncation_psi=-3.0 is outside"),
        (["protocol.knob_sweep=[-3]"], r"protocol\.knob_sweep=\[-3\.0\].* is outside"),
        (["protocol.knobs.truncation_psi=9"], r"knobs\.truncation_psi=9.0 is outside"),
        (["protocol.knobs={truncation_psi: 9}"], r"knobs\.truncation_psi=9.0 is outside"),
        (
            ["protocol.test.reference_records=disjoint", "data.source.num_test=600"],
            r"split shapes/test has 600 images, too few for 500 prompts and 500 reference images",
        ),
        (["data.flip=true", "data.level=L1+L2"], r"data\.flip=true makes captions of data\.level"),
    ],
)
def test_what_scoring_would_refuse_is_refused_first(overrides, words):
    with pytest.raises(T2IBenchError, match=words):
        check_scoring(Context(compose_spec([*MODEL, *overrides])))


def test_shapes_too_large_for_the_grader_are_judged_without_it(monkeypatch):
    monkeypatch.setattr(Grader, "__init__", None)
    context = Context(compose_spec([*MODEL, "data.resolution=256"]))
    judges = make_judges(context.spec, context.source, torch.device("cpu"))
    assert judges.grader is None and judges.meaning("a red ring") == judges.meaning("the red ring")
    assert judges.ungraded == "shapes of 256 px are not graded, only those of 32 to 128 px"


def test_a_base_that_nothing_stands_on_is_refused(capsys):
    assert main(["train", *MODEL, "base=nope", "--dry-run"]) == 2
    assert "base=nope: model=gan/fast_painter stands on no other run" in capsys.readouterr().err


def test_a_floor_that_cannot_be_measured_is_told_first(caplog):
    few = ["data.source.num_train=400", "data.source.num_test=700"]
    check_scoring(Context(compose_spec([*MODEL, *few])))
    assert "500 images outside the reference: 200 of test and 400 of train are left" in caplog.text
    caplog.clear()
    check_scoring(Context(compose_spec([*MODEL, *few, "data.source.num_train=500"])))
    check_scoring(Context(compose_spec([*MODEL, *few, "data.source.num_test=1000"])))
    assert not caplog.records


def test_mirrored_latents_are_refused_and_not_passed_over():
    spec = compose_spec(["model=diffusion/ldm", "data.flip=true", "trainer=cpu"])
    with pytest.raises(T2IBenchError, match=r"data\.flip=true needs images and model="):
        check_scoring(Context(spec))


def test_a_good_specification_passes_and_its_judges_load_once(monkeypatch):
    check_scoring(Context(compose_spec(MODEL)))
    monkeypatch.setattr(feasibility, "make_judges", None)
    check_scoring(Context(compose_spec([*MODEL, "seed=1"])))


def test_too_few_pictures_are_told_before_one_is_opened(pictures):
    folder = ["data=folder", f"data.root={pictures}", "data.resolution=32", *MODEL]
    with pytest.raises(T2IBenchError, match=r"protocol\.\w+\.\w+=.*data\.source\.\w+_share"):
        check_scoring(Context(compose_spec(folder)))
    check_scoring(Context(compose_spec([*folder, *ONE_EACH])))


def test_pictures_that_a_protocol_prepares_itself_are_not_refused(pictures):
    words = ["data=folder", f"data.root={pictures}", "data.resolution=32", *MODEL, *ONE_EACH]
    check_scoring(Context(compose_spec([*words, "protocol.images.resize=lanczos"])))
    with pytest.raises(T2IBenchError, match="compares images prepared by bicubic-reed"):
        crop = ["protocol.images.resize=bicubic", "protocol.images.crop=reed-box-short-side"]
        check_scoring(Context(compose_spec([*words, *crop])))


@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_the_command_line_says_it_in_one_sentence(words, capsys):
    assert main(["train", *words, *MODEL, "protocol.test.split=tset"]) == 2
    told = capsys.readouterr().err
    assert "protocol.test.split=tset is no split" in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"max_refused": 2}, r"data\.source\.max_refused=2 must be a share"),
        ({"val_share": 0.9}, r"data\.source\.val_share=0\.9 and data\.source\.test_share"),
        ({"background": [1, 2]}, r"data\.source\.background=\[1, 2\]"),
    ],
)
def test_options_of_a_folder_are_named_as_they_are_typed(pictures, tmp_path, option, words):
    with pytest.raises(T2IBenchError, match=words):
        FolderSource(pictures, cache_dir=tmp_path, **option)


@pytest.mark.parametrize(
    "model", [m for m, text in FILES.items() if "override /cascade" not in text]
)
def test_a_model_and_its_knobs_are_known_without_weights(model, shared_cache):
    case = Case(model, None, shared_cache)
    declared = sketched(Context(case.spec)).knobs
    assert [knob.name for knob in declared] == [knob.name for knob in case.module().knobs]
    assert sum(knob.fidelity_alignment for knob in declared) == 1


@pytest.mark.parametrize(
    ("model", "resolution", "refused"),
    [
        ("gan_int_cls", 24, "cannot be reached from 4 px by doubling"),
        ("stack_gan_1", 24, "cannot be reached from 4 px by doubling"),
        ("stack_gan_v2", 48, "pyramid of 3 images"),
        ("attn_gan", 48, "pyramid of 3 images"),
        ("giga_gan", 40, "is no power of two"),
        ("style_gan_t", 48, "power of two"),
    ],
)
def test_a_resolution_that_a_gan_cannot_make_is_refused_before_its_parts_are_trained(
    model, resolution, refused, capsys
):
    words = [f"model=gan/{model}", f"data.resolution={resolution}", "trainer=cpu"]
    assert main(["train", "--dry-run", *words]) == 2
    told = capsys.readouterr().err
    assert f"data.resolution={resolution}" in told and refused in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("gan/stack_gan_1 model.training.batch_size=1", "=1 splits a batch of 1 .* or a larger"),
        ("gan/style_gan_t model.module.accumulation=3", "accumulation=3 splits a batch of 16"),
        ("gan/stack_gan_1 model.module.kl_weight=-1", "kl_weight=-1 is a weight and must not be"),
        ("gan/giga_gan model.module.r1_gamma=-1", "r1_gamma=-1 is a weight and must not be"),
        ("gan/gan_int_cls model.module.null_text_probability=1.5", "choose a value from 0 to 1"),
        ("gan/style_gan_t model.module.truncation_psi=-1", r"truncation_psi=-1(.0)? is outside"),
        ("gan/giga_gan model.module.truncation_psi=nan", "truncation_psi=nan must be a finite"),
        ("gan/giga_gan clip=none", "with no clip does not fit.*clip=dual_encoder"),
        ("gan/style_gan_t backbone=none", "choose backbone=NAME, a file of conf/backbone"),
        ("gan/attn_gan damsm=none", "choose damsm=NAME, a file of conf/damsm"),
    ],
)
def test_impossible_settings_of_gans_are_refused_before_their_parts_are_trained(words, refused):
    model, *changes = words.split()
    with pytest.raises(T2IBenchError, match=refused):
        context = Context(compose_spec([f"model={model}", *changes, "trainer=cpu"]))
        check(context)
        check_scoring(context)


@pytest.mark.parametrize(
    ("knob", "refused"), [("guidance_scale=99", "outside"), ("psi=1", "is not a knob")]
)
def test_the_knobs_of_a_model_with_a_clip_are_checked_before_the_clip_is_trained(knob, refused):
    spec = compose_spec(["model=diffusion/fast_unclip", f"knobs.{knob}", "trainer=cpu"])
    with pytest.raises(T2IBenchError, match=rf"knobs\.{knob.split('=')[0]}.*{refused}"):
        check_scoring(Context(spec))


def test_the_text_encoder_is_made_before_any_work(capsys):
    assert main(["train", "--dry-run", *MODEL, "text.encoder.max_length=1"]) == 2
    assert "text.encoder.max_length=1 must be at least 2" in capsys.readouterr().err
