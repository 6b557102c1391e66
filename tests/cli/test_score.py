"""``t2ibench score`` and ``sample`` on a real run: steps, held-out compositions, foreign images."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import t2ibench
from t2ibench.cli.compose import compose_spec, config_dir, rescored
from t2ibench.cli.main import main
from t2ibench.cli.score_lines import skills_text
from t2ibench.cli.verbs.score import take_protocols
from t2ibench.core.errors import ConfigError
from t2ibench.core.files import read_json
from t2ibench.core.knobs import Knob
from t2ibench.engine import judges
from t2ibench.engine.assemble import read_spec
from t2ibench.engine.sampling import timed_sampling
from t2ibench.engine.scoring_plan import fixed_knobs, front_settings
from t2ibench.evaluation.results import RunScores
from t2ibench.runs.folder import Run

SMALL = [
    "model=diffusion/fast_unet",
    "data.holdout=shape-colour",
    "budget=images",
    "budget.amount=64",
    "budget.first_stage_images=64",
    "data.source.num_train=96",
    "data.source.num_val=32",
    "data.source.num_test=48",
    "protocol.test.num_images=48",
    "protocol.test.reference_size=48",
    "protocol.front.num_images=16",
    "protocol.front.reference_size=16",
    "protocol.heldout.num_images=24",
    "protocol.knob_sweep=[1,2]",
    "protocol.steps_sweep=[1,3]",
    "protocol.cost_seconds=0.05",
    "protocol.batch_size=8",
    "knobs.num_steps=2",
    "trainer=cpu",
]
SIZES = [option for option in SMALL if option.startswith("data.")]
KNOBS = (
    Knob("guidance_scale", 2.0, 0.0, 30.0, True, (1.0, 3.0)),
    Knob("num_steps", 20, 1, 1000, integer=True),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One small latent diffusion run on a world that keeps compositions out of training."""
    root = tmp_path_factory.mktemp("score")
    before = {k: os.environ.get(k) for k in ("T2IBENCH_RUNS", "T2IBENCH_CACHE")}
    os.environ |= {"T2IBENCH_RUNS": str(root / "runs"), "T2IBENCH_CACHE": str(root / "cache")}
    try:
        assert main(["train", *SMALL]) == 0
        yield next((root / "runs").glob("diffusion*"))
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def test_steps_are_a_second_axis_and_the_knob_is_chosen_at_the_steps_asked(run):
    scores = RunScores.read(run / "scores.json")
    points = {(p.knobs["num_steps"], p.value) for p in scores.front}
    assert points == {(steps, value) for steps in (1, 2, 3) for value in (1, 2)}
    assert all((run / p.samples / "set.json").exists() for p in scores.front)
    assert len({p.samples for p in scores.front}) == 6
    assert scores.chosen.knobs["num_steps"] == 2
    assert scores.chosen.value in (1, 2)


def test_the_choice_of_the_knob_is_explained_and_its_edge_said(run):
    knob = RunScores.read(run / "scores.json").knob
    assert knob["chosen_by"] == "kid" and knob["reason"].startswith("lowest kid (")
    # Of two values each is an end of the sweep, and guidance could go further.
    assert knob["edge"] in ("lowest", "highest")


def test_costs_reuse_the_times_of_sampling_and_have_a_spread(run):
    cost = RunScores.read(run / "scores.json").cost
    drawn = read_json(run / "samples" / "chosen" / "set.json")["meta"]["timing"]
    assert len(drawn) == 5, "48 images in batches of 8, the first of which warms up"
    assert {time["batch_size"] for time in drawn} == {8}
    found = timed_sampling(run / "samples" / "chosen", torch.device("cpu"))
    assert found.calls == 5 and found.iqr >= 0
    assert min(cost[kind]["calls"] for kind in ("latency", "throughput")) >= 5
    # The drawn batches are among those tried, where the machine was quiet then.
    assert found.busy or cost["seconds_per_image_best"] <= found.median
    assert not list((run / "samples").rglob("parts-*"))


def test_another_scoring_takes_the_images_and_their_times(run):
    assert main(["score", str(run), "protocol.name=again"]) == 0
    (again,) = (run / "samples").glob("again-*/chosen/set.json")
    own = read_json(run / "samples" / "chosen" / "set.json")
    assert read_json(again)["hash"] == own["hash"]
    assert read_json(again)["meta"]["timing"] == own["meta"]["timing"] != []


def test_options_of_pictures_are_refused_for_a_run(run, capsys):
    for word in ("reference=x", "name=x", "out=x", "extractor=x", "prompts=x"):
        assert main(["score", str(run), word]) == 2
        name, value = word.split("=")
        assert f"its own data; {name}= is for images" in capsys.readouterr().err
        with pytest.raises(ConfigError, match=f"is a run.* {name}= is for images"):
            t2ibench.score(run, **{name: value})


def test_held_out_compositions_stand_beside_the_iid_skills(run, capsys):
    scores = RunScores.read(run / "scores.json").chosen.scores
    skills = {s.metric for s in scores.values() if s.metric.startswith("grader_")}
    curve = RunScores.read(run / "scores.json").atomicity
    assert sum(point["n"] for point in curve) == 48 and curve[0]["objects"] == 1
    iid = {name for name in skills if not name.endswith("_heldout")}
    assert {"grader_colour", "grader_shape", "grader_exact"} <= iid
    assert skills - iid == {f"{name}_heldout" for name in iid}
    kept = [
        json.loads(x) for x in (run / "samples/heldout/manifest.jsonl").read_text().splitlines()
    ]
    assert len(kept) == 24 and all("test_heldout" in row["key"] for row in kept)
    capsys.readouterr()
    assert main(["score", str(run)]) == 0
    assert "held-out %" in capsys.readouterr().out, "said again without scoring again"
    assert "r_precision_hard" in {score.metric for score in scores.values()}


def test_one_set_under_several_protocols(run, capsys):
    evaluator = ["evaluator=embedded"]
    assert main(["score", str(run), "--protocols", "all", *evaluator]) == 0
    text = capsys.readouterr().out
    assert "as sampled, 1/2 of the images" in text and "training images" in text
    assert "not scored: standard: it scores 10000 images, the set has 48" in text
    assert (run / "protocols.csv").exists() and (run / "protocols.md").exists()
    assert main(["score", str(run), "--protocols=quick", *evaluator]) == 2
    assert "fit no convention" in capsys.readouterr().err
    assert main(["score", str(run), "--protocols", "mine"]) == 2
    assert "'mine' is unknown; choose all, or some of" in capsys.readouterr().err


def test_what_was_trained_cannot_be_changed_by_scoring(run, capsys):
    assert main(["score", str(run), "model=gan/fast_painter"]) == 2
    assert "model cannot be changed when a trained run is scored" in capsys.readouterr().err
    assert main(["score", str(run), "--fast"]) == 2
    assert "no flag --fast" in capsys.readouterr().err


def test_geneval_prompts_give_genevals_folders_which_score_reads_back(run, tmp_path, capsys):
    rows = [
        {"tag": "colors", "include": [], "prompt": f"a {colour} {shape}"}
        for colour in ("red", "blue", "green") for shape in ("ring", "heart")
    ]  # fmt: skip
    prompts = tmp_path / "evaluation_metadata.jsonl"
    prompts.write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "geneval"
    asked = [f"prompts={prompts}", f"out={out}", "images_per_prompt=4", "knobs.num_steps=1"]
    assert main(["sample", str(run), *asked]) == 0
    assert json.loads((out / "00003" / "metadata.jsonl").read_text()) == rows[3]
    four = sorted((out / "00003" / "samples").iterdir())
    assert len(four) == 4 and len({p.read_bytes() for p in four}) == 4
    protocol = ["protocol.test.num_images=24", "protocol.test.reference_size=24"]
    assert main(["score", str(out), *SIZES, *protocol, "name=mine"]) == 0
    scores = read_json(out / "scores.json")
    assert scores["model"]["family"] == "external" and scores["model"]["name"] == "mine"
    assert "floor" in scores["reference"]
    metrics = {key.split("[")[0] for key in scores["chosen"]["scores"]}
    assert {"fd", "clip_score", "r_precision_hard", "grader_colour"} <= metrics
    assert main(["score", str(out), *SIZES]) == 2
    assert "scores 500 images, here are 24" in capsys.readouterr().err
    assert main(["compare", str(run), str(out)]) == 2
    said = capsys.readouterr().err
    assert "mine (external) share no score" in said and "and 24" in said


def test_npz_and_features_score_alike(run, tmp_path, capsys):
    from t2ibench.evaluation.samples import SampleSet
    from t2ibench.metrics.extractors.efficientnet import EfficientNetLite0

    samples = SampleSet.load(run / "samples" / "chosen")
    np.savez(tmp_path / "images.npz", samples.pixels.permute(0, 2, 3, 1).numpy())
    extractor = EfficientNetLite0()
    features = extractor.features(samples.pixels).numpy()
    np.savez(tmp_path / "features.npz", features=features)
    protocol = ["protocol.test.num_images=48", "protocol.test.reference_size=48", *SIZES]
    assert main(["score", str(tmp_path / "images.npz"), *protocol]) == 0
    named = [f"extractor={extractor.key}"]
    assert main(["score", str(tmp_path / "features.npz"), *protocol, *named]) == 0
    assert main(["score", str(tmp_path / "features.npz"), *protocol]) == 2
    assert "match 0 of this evaluator's extractors" in capsys.readouterr().err
    images, extracted = (
        read_json(tmp_path / f"{n}.npz.scored" / "scores.json")["chosen"]["scores"]
        for n in ("images", "features")
    )
    assert set(extracted) < set(images)
    ours = read_json(run / "scores.json")["chosen"]["scores"]
    for key, score in extracted.items():
        assert score["value"] == pytest.approx(images[key]["value"], rel=1e-6)
        if "/48" not in key:
            assert score["value"] == pytest.approx(ours[key]["value"], rel=1e-4)


def test_every_protocol_composes_and_says_what_it_is():
    names = sorted(path.stem for path in (config_dir() / "protocol").glob("*.yaml"))
    assert {"quick", "dev", "standard", "coco30k_gigagan", "coco10k_sd", "coco30k_ldm",
            "coco30k_gan", "cub_gan"} <= set(names)  # fmt: skip
    with pytest.raises(ConfigError, match=r"protocol\.test\.num_images must be given"):
        compose_spec(["protocol=folders"])
    names.remove("folders")
    for name in names:
        spec = compose_spec([f"protocol={name}"]).protocol
        test, front = judges.test_protocol(spec), judges.front_protocol(spec)
        assert test.name == name and front.split == "val" and test.split == "test"
        text = (config_dir() / "protocol" / f"{name}.yaml").read_text()
        assert "# Command:" in text
        if test.extractor:
            assert "# Source:" in text and "# Differs:" in text
            assert test.resolution >= 256 and test.crop and test.resize
    specs = {name: compose_spec([f"protocol={name}"]).protocol for name in names}
    sizes = {name: judges.test_protocol(spec).num_images for name, spec in specs.items()}
    assert (sizes["quick"], sizes["dev"], sizes["standard"]) == (500, 2000, 10000)
    assert sizes["coco10k_sd"] == 10000
    assert all(size == 30000 for n, size in sizes.items() if "30k" in n or n == "cub_gan")


def test_a_protocols_knobs_hold_where_a_family_has_them_and_the_user_rules():
    spec = compose_spec(["protocol=coco30k_ldm"])
    assert fixed_knobs(spec, KNOBS) == {"num_steps": 250, "guidance_scale": 1.5}
    psi = (Knob("truncation_psi", 1.0, 0.0, 1.5, True, (0.5, 1.0)),)
    assert fixed_knobs(spec, psi) == {}
    spec = compose_spec(["protocol=coco30k_ldm", "knobs.guidance_scale=1"])
    assert fixed_knobs(spec, KNOBS)["guidance_scale"] == 1


def test_settings_of_the_front():
    asked = {"guidance_scale": 2.0, "num_steps": 20}
    protocol = compose_spec([]).protocol

    def swept(steps):
        return protocol.model_copy(update={"knob_sweep": None, "steps_sweep": steps})

    assert front_settings(swept(None), KNOBS[0], asked) == [
        {"guidance_scale": value, "num_steps": 20} for value in (1.0, 3.0)
    ]
    found = front_settings(swept([5]), KNOBS[0], asked)
    assert [p["num_steps"] for p in found] == [5, 5, 20, 20]
    psi = Knob("truncation_psi", 1.0, 0.0, 1.5, True, (0.5,))
    assert front_settings(swept([5]), psi, {"truncation_psi": 1.0}) == [{"truncation_psi": 0.5}]
    with pytest.raises(ConfigError, match=r"protocol.steps_sweep\[0\]=0\.5"):
        compose_spec(["protocol.steps_sweep=[0.5]"])


def test_a_word_changes_that_setting_and_leaves_the_runs_others(run):
    own, changed = read_spec(Run.at(run)), rescored(Run.at(run), ["protocol.knob_sweep=[3]"])
    assert changed.protocol.test == own.protocol.test
    assert changed.protocol.model_dump() == own.protocol.model_dump() | {"knob_sweep": [3.0]}
    other = rescored(Run.at(run), ["protocol.test.num_images=40", "protocol=dev"]).protocol
    assert (other.name, other.test.num_images) == ("dev", 40)


def test_words_of_protocols():
    assert take_protocols(["a", "--protocols", "all", "b=1"]) == (["a", "b=1"], "all")
    assert take_protocols(["--protocols=x,y", "a"]) == (["a"], "x,y")
    assert take_protocols(["a"]) == (["a"], "")
    with pytest.raises(ConfigError, match="needs names"):
        take_protocols(["a", "--protocols"])
    assert skills_text({}) == ""


def test_images_with_a_prompts_file(run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(20):
        pixels = np.full((40, 32, 3), 10 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    prompts = tmp_path / "prompts.txt"
    colours = ("red", "blue", "green", "pink", "cyan")
    words = [f"a {colour} {shape}" for colour in colours for shape in ("ring", "moon")]
    prompts.write_text("\n".join(words))
    protocol = ["protocol.test.num_images=20", "protocol.test.reference_size=20", *SIZES]
    assert main(["score", str(folder), f"prompts={prompts}", *protocol]) == 0
    assert read_json(folder / "scores.json")["chosen"]["samples"] == "samples/chosen"
