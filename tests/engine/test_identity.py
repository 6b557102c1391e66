"""A run's identity is content: what is trained, not where it lies; sampling is not part of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from text.tiny import save_t5

from t2ibench.cli.compose import compose_spec, rescored
from t2ibench.cli.main import main
from t2ibench.core.errors import CheckpointError, RunError
from t2ibench.core.files import read_json
from t2ibench.engine.context import Context
from t2ibench.engine.identity import identity_of, named_run
from t2ibench.engine.load import open_folder
from t2ibench.runs.folder import Run


def pictures(folder, seed, count=120):
    """A folder of captioned 16 px images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        array = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"{i:03d}.png")
        (folder / f"{i:03d}.txt").write_text(f"picture {i % 7}\n")
    return folder


def small(root, *words):
    return [
        "debug=smoke", "budget.amount=32", "trainer.progress=false",
        f"paths.runs={root}/runs", f"paths.cache={root}/cache", *words,
    ]  # fmt: skip


def on_folder(root, data, *words):
    return small(
        root, "model=gan/fast_painter", "data=folder", f"data.root={data}", "data.resolution=16",
        "data.source.val_share=0.2", "data.source.test_share=0.3", "evaluator/dual_encoder=[]",
        "protocol.test.num_images=8", "protocol.test.reference_size=8", "protocol.heldout=null",
        "protocol.front.num_images=8", "protocol.front.reference_size=8", *words,
    )  # fmt: skip


def identity(words):
    return named_run(Context(compose_spec(words))).identity


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("identity")


@pytest.fixture(scope="module")
def folders(root):
    return pictures(root / "a", 0), pictures(root / "b", 1)


def test_two_folders_are_two_runs_and_one_that_moved_is_one(root, folders):
    a, b = folders
    moved = Path(shutil.copytree(a, root / "elsewhere" / "renamed"))
    for file in moved.iterdir():
        file.touch()
    assert identity(on_folder(root, a)) != identity(on_folder(root, b))
    assert identity(on_folder(root, a)) == identity(on_folder(root, moved))
    for caption in moved.glob("*.txt"):
        caption.write_text("another caption\n")
    assert identity(on_folder(root, a)) != identity(on_folder(root, moved))


def test_the_second_folder_is_trained_and_costs_the_first_nothing(root, folders):
    a, b = folders
    assert main(["train", *on_folder(root, a)]) == 0
    (first,) = (root / "runs").glob("*/scores.json")
    before = first.read_bytes()
    assert main(["train", *on_folder(root, b)]) == 0
    both = sorted((root / "runs").glob("*/scores.json"))
    assert len(both) == 2 and first.read_bytes() == before
    weights = {path.parent / "checkpoints" / "model.safetensors" for path in both}
    assert len({path.read_bytes() for path in weights}) == 2


def test_a_changed_image_is_noticed_when_a_run_is_scored_again(root, folders, capsys):
    a = Path(shutil.copytree(folders[0], root / "changing"))
    runs = root / "changing_runs"
    assert main(["train", *on_folder(root, a, f"paths.runs={runs}")]) == 0
    (run,) = (path.parent for path in runs.glob("*/scores.json"))
    scores = (run / "scores.json").read_bytes()
    for image in a.glob("*.png"):
        Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(image)
    words = [f"paths.runs={runs}", f"paths.cache={root}/cache", "protocol.test.num_images=7"]
    assert main(["score", str(run), *words]) == 2
    assert "was trained on data" in capsys.readouterr().err
    assert (run / "scores.json").read_bytes() == scores
    # Sampling needs no data at all.
    shutil.rmtree(a)
    assert open_folder(run).module.knobs[0].name == "truncation_psi"


def test_a_text_encoder_counts_by_its_weights_wherever_they_lie(root):
    one, two, other = root / "t5-a", root / "t5-b", root / "t5-c"
    save_t5(one)
    shutil.copytree(one, two)
    save_t5(other, seed=1)

    def found(path):
        world = ["data.source.num_train=8", "data.source.num_val=2", "data.source.num_test=2"]
        return identity(small(root, "model=gan/fast_painter", "text=t5", f"text.path={path}",
                              "text.encoder.dtype=float32", *world))  # fmt: skip

    assert found(one) == found(two) != found(other)


@pytest.mark.parametrize(
    "words",
    [
        ["model.module.process.solver=ddim"],
        ["model.module.process.num_steps=7"],
        ["model.module.guidance_scale=3.0"],
        ["knobs.guidance_scale=4"],
        ["protocol=dev"],
        ["evaluator.grader=false"],
        ["data.source.num_test=77"],
        ["data.source.num_val=55"],
        ["trainer.devices=2"],
        ["trainer.log_every_images=7"],
        ["trainer.compile=true"],
        ["parts.first_stage.name=mine"],
        ["model.name=mine"],
        ["study.name=other"],
        ["paths.cache=elsewhere"],
    ],
    ids=lambda words: words[0],
)
def test_what_changes_no_weights_makes_no_new_run(words):
    world = ["model=diffusion/fast_unet", "data.source.num_train=8"]
    assert identity([*world, *words]) == identity(world)


@pytest.mark.parametrize(
    "words",
    [
        ["seed=1"],
        ["budget.amount=2e13"],
        ["budget.include_parts=false"],
        ["budget.first_stage_images=99"],
        ["parts.first_stage.seed=1"],
        ["parts.first_stage.training.batch_size=4"],
        ["autoencoder=none"],
        ["model.training.decay=linear"],
        ["model.module.process.schedule=cosine", "model.module.process.betas=null"],
        ["model.module.network.channels=16"],
        ["conditioning=concat"],
        ["data.level=L2"],
        ["data.source.num_train=9"],
        ["data.source.seed=1"],
        ["data.flip=true"],
        ["data.resolution=64"],
        ["text=word_lstm"],
        ["text.encoder.depth=1"],
        ["trainer.precision=bf16-mixed"],
    ],
    ids=lambda words: words[0],
)
def test_what_changes_weights_makes_a_new_run(words):
    world = ["model=diffusion/fast_unet", "data.source.num_train=8"]
    assert identity([*world, *words]) != identity(world)


def test_the_same_content_under_another_name_is_the_same_run(root):
    demo, flops = (
        identity(["model=gan/fast_painter", "data.source.num_train=8", *words])
        for words in (["budget=demo"], ["budget=flops", "budget.amount=1.65e13"])
    )
    assert demo == flops
    assert identity(["model=gan/fast_painter", "data.source.num_train=8", "size=xs_narrow"]) == (
        identity(
            ["model=gan/fast_painter", "data.source.num_train=8", "size=xs",
             "model.module.generator.channels=24", "model.module.discriminator.channels=16",
             "model.module.generator.style_width=64"]
        )
    )  # fmt: skip


def test_identity_is_json_and_names_content_only(root, folders):
    context = Context(compose_spec(on_folder(root, folders[0])))
    found = identity_of(context)
    assert str(root) not in str(found)
    assert set(found) == {"model", "conditioning", "text", "parts", "data", "budget", "seed",
                          "trainer"}  # fmt: skip
    assert found["trainer"] == {"precision": "auto"}


def test_a_frozen_encoder_that_changed_since_is_noticed(root):
    folder = root / "t5-later"
    save_t5(folder)
    words = small(
        root, "model=gan/fast_painter", "text=t5", f"text.path={folder}",
        "text.encoder.dtype=float32", "data.source.num_train=64", "data.source.num_val=32",
        "data.source.num_test=64",
    )  # fmt: skip
    assert main(["train", *words]) == 0
    run = named_run(Context(compose_spec(words))).path
    assert read_json(run / "manifest.json")["content"]["text_encoder"]
    shutil.rmtree(folder)
    save_t5(folder, seed=5)
    with pytest.raises(CheckpointError, match="was trained on text_encoder with content"):
        open_folder(run)


def test_a_run_begun_on_other_data_is_not_gone_on_with(root, folders):
    from t2ibench.engine.assemble import restore_parts
    from t2ibench.engine.identity import resolved
    from t2ibench.engine.train import write_manifest

    context = Context(compose_spec(on_folder(root, folders[0], "seed=9")))
    run = named_run(context).begin(resolved(context).config())
    restore_parts(context, None)
    run.write_manifest(data="another", content={})
    run.checkpoint.parent.mkdir()
    run.checkpoint.touch()
    with pytest.raises(RunError, match="was begun with data another, which is now"):
        write_manifest(context, run, {})


def test_a_run_is_scored_on_another_machine_and_with_pictures_that_moved(
    root, folders, monkeypatch
):
    data = Path(shutil.copytree(folders[0], root / "here" / "pictures"))
    monkeypatch.chdir(data.parent)
    words = on_folder(root, "pictures", "seed=3")
    assert main(["train", *words]) == 0
    run = named_run(Context(compose_spec(words))).path
    assert Run.at(run).config()["data"]["root"] == str(data)
    scores = (run / "scores.json").read_bytes()
    monkeypatch.chdir(root)
    moved = data.rename(root / "moved")
    there = [f"paths.runs={root}/runs", f"paths.cache={root}/there"]
    for word in (f"data.root={moved}", "data.source.root=moved"):
        spec = rescored(Run.at(run), [*there, word])
        assert spec.data.source.arguments["root"] == str(moved)
        assert spec.data.source.arguments["cache_dir"] == f"{root}/there"
        assert main(["score", str(run), *there, word]) == 0
        assert (run / "scores.json").read_bytes() == scores and not (run / "scores").exists()
    assert main(["score", str(run), *there, f"data.root={folders[1]}"]) == 2
