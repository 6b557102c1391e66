"""A cascade from the command line: each stage is a run that finds the one below it by its hash."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch
from by_words import module_of, run_of, trained
from PIL import Image
from safetensors.torch import load_file, save_file

from t2ibench.cli.main import main
from t2ibench.core.errors import BudgetError, CheckpointError, ConfigError
from t2ibench.core.files import read_json
from t2ibench.core.noise import SeededNoise
from t2ibench.data.stream import BatchStream
from t2ibench.engine import train as training
from t2ibench.engine.interrupt import Interrupted
from t2ibench.reporting import gather
from t2ibench.reporting.render.grid import GAP, PADDING
from t2ibench.reporting.statistics.groups import group_runs
from t2ibench.runs.folder import Run

PROMPTS = ["a large red ring", "a small blue moon"]
SMALL = [
    "budget=images",
    "budget.amount=48",
    "data.source.num_train=64",
    "data.source.num_val=32",
    "data.source.num_test=40",
    "protocol.test.num_images=40",
    "protocol.test.reference_size=40",
    "protocol.front.num_images=8",
    "protocol.front.reference_size=8",
    "protocol.knob_sweep=[1.0,2.0]",
    "protocol.cost_seconds=0.05",
    "trainer=cpu",
    "trainer.progress=false",
]

SR3 = ["model.module.process.num_steps=2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cascade")
    before = {k: os.environ.get(k) for k in ("T2IBENCH_RUNS", "T2IBENCH_CACHE")}
    os.environ |= {"T2IBENCH_RUNS": str(root / "runs"), "T2IBENCH_CACHE": str(root / "cache")}
    yield root
    for key, value in before.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value


def words(model, side, *extra):
    return [f"model=diffusion/{model}", f"data.resolution={side}", *SMALL, *extra]


def newest(root, pattern):
    return max((root / "runs").glob(pattern), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module")
def base(root):
    """16 px, trained and scored by the command."""
    assert main(["train", "model=diffusion/fast_imagen", "data.resolution=16", *SMALL]) == 0
    return Run.at(newest(root, "diffusion-fast_imagen-*"))


@pytest.fixture(scope="module")
def stage(root, base):
    """32 px on it, trained and scored by the command."""
    chosen = ["model=diffusion/fast_imagen_sr", f"base={base.path}", "data.resolution=32"]
    assert main(["train", *chosen, *SMALL]) == 0
    return Run.at(newest(root, "diffusion-fast_imagen_sr-*"))


def metrics_of(run):
    return {key.split("[")[0] for key in read_json(run.scores)["chosen"]["scores"]}


def test_a_base_below_32_px_is_scored_and_not_graded(base):
    assert {"fd", "clip_score"} <= metrics_of(base)
    assert not [name for name in metrics_of(base) if name.startswith("grader")]


def test_a_stage_is_scored_and_graded_as_any_run(base, stage):
    assert {"fd", "clip_score", "grader_colour"} <= metrics_of(stage)
    scores = read_json(stage.scores)
    assert scores["knob"]["name"] == "base_guidance_scale"
    asked = scores["chosen"]["knobs"]
    assert {"base_guidance_scale", "base_num_steps", "augmentation"} <= set(asked)
    assert scores["leakage"] == []


def test_the_bases_hash_and_not_its_path_is_the_stages_identity(root, base, stage):
    named = [str(base.path), base.path.name, base.identity, base.identity[:8]]
    for name in named:
        assert run_of(words("fast_imagen_sr", 32, f"base={name}")).path == stage.path
    written = (stage.path / "config.yaml").read_text()
    assert f"base: {base.identity}" in written and str(base.path) not in written
    manifest = read_json(stage.path / "manifest.json")["parts"]["base"]
    assert manifest["run"] == base.path.name and manifest["identity"] == base.identity


def test_a_stage_keeps_its_own_weights_alone_and_moves_with_its_base(stage, base, tmp_path):
    assert all(name.startswith("network.") for name in load_file(stage.weights))
    for run in (stage, base):
        shutil.copytree(run.path, tmp_path / run.path.name)
    moved, here = (module_of(Run.at(p)) for p in (tmp_path / stage.path.name, stage.path))
    assert torch.equal(*(m.generate(PROMPTS, SeededNoise([1, 2])) for m in (moved, here)))
    shutil.rmtree(tmp_path / base.path.name)
    config = tmp_path / stage.path.name / "config.yaml"
    config.write_text(config.read_text().replace(str(stage.path.parent), str(tmp_path)))
    with pytest.raises(ConfigError, match=f"stands on the run {base.identity}"):
        module_of(Run.at(tmp_path / stage.path.name))


def test_what_the_base_cost_is_charged_to_the_cascade(base, stage):
    below, cost = read_json(base.scores)["cost"], read_json(stage.scores)["cost"]
    assert cost["parts_flops"] == below["train_flops"] > 0
    assert cost["parts_seconds"] == below["train_seconds"] > 0
    assert cost["train_images"] == 48
    (group,) = group_runs(gather([stage.path])[0])
    assert group.training_flops == pytest.approx(below["train_flops"] + cost["train_flops"])
    assert cost["sample_flops_per_image"] > below["sample_flops_per_image"]
    assert cost["parameters"]["base"] == sum(below["parameters"].values())


def test_the_command_samples_with_the_bases_knobs(stage, tmp_path, capsys):
    knobs = ["knobs.base_guidance_scale=3", "knobs.base_num_steps=4", "knobs.num_steps=2"]
    for name, batch_size in (("a", 1), ("b", 2)):
        options = [f"out={tmp_path / name}", f"batch_size={batch_size}", *knobs]
        assert main(["sample", str(stage.path), *PROMPTS, *options]) == 0
    one, other = ([p.read_bytes() for p in sorted((tmp_path / n).glob("*.png"))] for n in "ab")
    assert one == other and len(one) == 2
    assert main(["sample", str(stage.path), *PROMPTS, "knobs.base_telepathy=1"]) == 2
    assert "base_guidance_scale, base_num_steps" in capsys.readouterr().err
    first, second = (
        module_of(stage).generate(PROMPTS, SeededNoise([1, 2]), {"base_num_steps": steps})
        for steps in (2, 20)
    )
    assert not torch.equal(first, second)


def test_a_sheet_has_the_given_picture_beside_the_upscaled_one(stage, tmp_path):
    side, enlarged = 16, 128
    small = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(small).save(tmp_path / "small.png")
    words = ["a large red ring", "edit=upscaling", f"image={tmp_path / 'small.png'}"]
    words += ["knobs.num_steps=2", f"out={tmp_path / 'out'}", f"sheet={tmp_path / 'sheet.png'}"]
    assert main(["sample", str(stage.path), *words]) == 0
    large = np.asarray(Image.open(next((tmp_path / "out").glob("*.png"))))
    wanted = [image.repeat(enlarged // len(image), 0).repeat(enlarged // len(image), 1)
              for image in (small, large)]  # fmt: skip
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    strip = sheet[-PADDING - enlarged : -PADDING, :-PADDING]
    np.testing.assert_array_equal(strip[:, -enlarged:], wanted[1])
    np.testing.assert_array_equal(strip[:, -2 * enlarged - GAP : -enlarged - GAP], wanted[0])


def test_the_same_command_does_nothing_twice(stage, base):
    before = stage.scores.stat().st_mtime_ns
    chosen = ["model=diffusion/fast_imagen_sr", f"base={base.identity}", "data.resolution=32"]
    assert main(["train", *chosen, *SMALL]) == 0
    assert stage.scores.stat().st_mtime_ns == before


def test_a_cascade_has_as_many_stages_as_one_likes(root, base, stage):
    extra = ["budget.amount=16", "data.source.num_train=32", *SR3]
    third = trained(words("sr3", 64, f"base={stage.path.name}", *extra))
    assert third.clock.parts_flops > stage.status()["clock"]["parts_flops"] > 0
    images = module_of(third.run).generate(PROMPTS, SeededNoise([1, 2]), {"base_base_num_steps": 2})
    assert images.shape == (2, 3, 64, 64)
    assert module_of(third.run).base.module.base.module.resolution == 16


def test_a_gan_can_be_the_base(root):
    gan = trained(["model=gan/fast_painter", "data.resolution=16", *SMALL])
    few = ["budget.amount=16", *SR3]
    module = trained(words("sr3", 32, f"base={gan.run.path}", *few)).module
    names = {knob.name for knob in module.knobs}
    assert names == {"num_steps", "threshold", "base_truncation_psi"}
    assert module.generate(PROMPTS, SeededNoise([1, 2])).shape == (2, 3, 32, 32)


def test_a_stage_resumes_where_it_was_interrupted(root, base, monkeypatch):
    def chosen(seed):
        return words("fast_imagen_sr", 32, f"base={base.path.name}", f"seed={seed}")

    whole = trained(chosen(7)).run.weights.read_bytes()
    shutil.rmtree(run_of(chosen(7)).path)

    class Cut(BatchStream):
        drawn = 0

        def __next__(self):
            Cut.drawn += 1
            if Cut.drawn == 3:
                os.kill(os.getpid(), signal.SIGUSR1)
            return super().__next__()

    monkeypatch.setattr(training, "BatchStream", Cut)
    with pytest.raises(Interrupted):
        trained(chosen(7))
    monkeypatch.undo()
    run = run_of(chosen(7))
    assert run.state == "interrupted"
    assert trained(chosen(7)).run.weights.read_bytes() == whole


def test_a_base_that_was_trained_anew_is_noticed(base, stage, tmp_path):
    for run in (stage, base):
        shutil.copytree(run.path, tmp_path / run.path.name)
    copy = Run.at(tmp_path / base.path.name)
    weights = load_file(copy.weights)
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 1}, copy.weights)
    with pytest.raises(CheckpointError, match="trained on base with content"):
        module_of(Run.at(tmp_path / stage.path.name))


def mistakes(base, root):
    elsewhere = root / "elsewhere" / base.path.name
    shutil.copytree(base.path, elsewhere, dirs_exist_ok=True)
    unfinished, part = (root / "runs" / name for name in ("unfinished-00000001", "part-00000002"))
    for folder in (unfinished, part):
        folder.mkdir(exist_ok=True)
    Run(unfinished, "00000001" * 2).set_status("interrupted")
    Run(part, "00000002" * 2).set_status("finished")
    shutil.copy(base.path / "config.yaml", unfinished / "config.yaml")
    (part / "config.yaml").write_text("first_stage: {}\n...\n")
    here = f"base={base.path}"
    return [
        (["data.resolution=32"], "stands on a trained run of 16 px"),
        (["data.resolution=32", "base=runs/nowhere"], "is no run in paths.runs"),
        (["data.resolution=32", "base=12345678"], "is no run in paths.runs"),
        (["data.resolution=32", f"base={elsewhere}"], "is not in paths.runs"),
        (["data.resolution=32", f"base={unfinished}"], "is interrupted, not trained"),
        (["data.resolution=32", f"base={part}"], "generates no images from text"),
        (["data.resolution=64", here], "makes 16 px, which model.module.upscale=2 turns into 32"),
        (
            ["data.resolution=32", here, "model.module.upscale=4"],
            "into 64, not data.resolution=32",
        ),
        (["data.resolution=32", here, "text=word_lstm"], "shares the text encoder of its base"),
    ]


def test_a_base_that_cannot_serve_is_one_sentence_before_any_work(root, base, capsys):
    before = sorted((root / "runs").iterdir())
    for arguments, words in mistakes(base, root):
        assert main(["train", "model=diffusion/fast_imagen_sr", *arguments, *SMALL]) == 2
        said = capsys.readouterr().err
        assert words in said and "Traceback" not in said, said
    made = set((root / "runs").iterdir()) - set(before)
    assert {path.name for path in made} == {"unfinished-00000001", "part-00000002"}
    for path in made:
        shutil.rmtree(path)


def test_a_budget_that_the_base_alone_used_up_is_refused(root, base):
    budget = ["budget=flops", "budget.amount=1e6"]
    with pytest.raises(BudgetError, match="base alone cost"):
        trained(words("fast_imagen_sr", 32, f"base={base.path}", *budget))
