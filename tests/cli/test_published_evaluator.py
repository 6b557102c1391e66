"""``evaluator=published`` on somebody's pictures: from files of weights to the leaderboard."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from published_judges import words_of, write_judges

import t2ibench
from t2ibench.cli.main import main
from t2ibench.core.files import read_json
from t2ibench.data.folder import FolderSource
from t2ibench.data.resize import ResizeRecipe
from t2ibench.evaluation.operating_point import ALIGNMENT
from t2ibench.evaluation.protocol import hashed_order
from t2ibench.evaluation.results import RunScores, by_metric
from t2ibench.evaluation.samples import SampleSet
from t2ibench.metrics.extractors import inception
from t2ibench.metrics.extractors.efficientnet import EfficientNetLite0
from t2ibench.metrics.frechet import frechet_distance

COLOURS = ("red", "green", "blue", "grey", "pink", "teal", "gold", "lime", "navy", "rose", "tan")
THINGS = ("ring", "moon", "star", "tree", "door", "cup", "hat", "fish", "boat", "drum", "lamp")
PAIRS = ("openai_clip_vit_l14_336", "clip-tiny"), ("open_clip_vit_b32", "clip-tiny-judge/random")


def write_pictures(folder):
    """240 smooth pictures, each with a caption of its own; one in eight is long."""
    stream, rows = np.random.default_rng(0), []
    for split, count in (("train", 112), ("val", 16), ("test", 112)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            coarse = stream.integers(0, 256, (4, 4, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize((40, 32)).save(folder / split / f"{i}.png")
            tail = " and so on and so forth until the very end" if i % 8 == 0 else ""
            words = f"a {COLOURS[i % 11]} {THINGS[i // 11 % 11]} {i}{tail}"
            rows.append((split, {"file_name": f"{i}.png", "text": words}))
    for split in ("train", "val", "test"):
        lines = [json.dumps(row) for name, row in rows if name == split]
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures, judges, and a run that is conditioned on one of the judges and scored by all."""
    root = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        # The smallest images that the network takes: random weights have no size of their own.
        patch.setattr(inception, "SIZE", 75)
        judges = write_judges(root)
        patch.setattr(inception, "PUBLISHED_SHA256", inception.hash_file(judges["inception"])[:8])
        yield from trained_and_scored(root, judges)


def trained_and_scored(root, judges):
    """The run, its root and the words that name data, protocol and judges."""
    pictures = write_pictures(root / "pictures")
    shared = [
        f"paths.runs={root}/runs", f"paths.cache={root}/cache", "trainer=cpu",
        "data=folder", f"data.root={pictures}", "data.resolution=16", *words_of(judges),
        "protocol.test.num_images=104", "protocol.test.reference_size=-1",
        "protocol.front.num_images=8", "protocol.front.reference_size=8",
        "protocol.knob_sweep=[0.5,1]", "protocol.r_precision_folds=2",
    ]  # fmt: skip
    conditioned = [
        "text=clip_vit_l14", f"text.path={judges['openai_clip_vit_l14_336']}",
        "model=gan/fast_painter", "budget=images", "budget.amount=32",
        "protocol.cost_seconds=0.05",
    ]  # fmt: skip
    assert main(["train", *shared, *conditioned]) == 0
    yield root, next((root / "runs").glob("gan*")), shared


def test_every_judge_gives_its_scores_under_its_own_key(place):
    scores = RunScores.read(place[1] / "scores.json").chosen.scores
    names = {(score.metric, score.key.split("[", 1)[1].split("@")[0]) for score in scores.values()}
    assert {("fid", "inception-v3-tf2015"), ("fd", "dinov2-tiny"),
            ("fd", "efficientnet-lite0-in1k")} <= names  # fmt: skip
    assert any(score.metric == "inception_score" for score in scores.values())
    for _, network in PAIRS:
        found = {metric for metric, name in names if name == network}
        assert {"clip_score", "r_precision", "r_precision_folds", "cmmd-style", "fd"} <= found
    assert not any(score.metric == "cmmd" for score in scores.values()), "no network deserves it"


def test_they_serve_wherever_a_dual_encoder_does(place):
    found = RunScores.read(place[1] / "scores.json")
    for point in (*found.front, found.chosen):
        assert by_metric(point.scores)[ALIGNMENT].key.startswith("clip_score[clip-tiny@32|")
    truth = {score.key for score in found.reference["ground_truth"].values()}
    assert len([key for key in truth if key.startswith("r_precision[")]) == 2
    assert len([key for key in found.reference["floor"] if key.startswith("cmmd-style[")]) == 2
    assert found.absent == {}


def test_the_generator_that_was_conditioned_on_a_judge_is_flagged(place):
    found = RunScores.read(place[1] / "scores.json")
    assert {leak["instrument"].split("@")[0] for leak in found.leakage} == {"clip-tiny"}
    for score in found.chosen.scores.values():
        assert ("leak" in score.note) == ("clip-tiny@" in score.key)


def test_cut_captions_are_counted_in_the_scores(place):
    found = RunScores.read(place[1] / "scores.json").chosen
    rows = (place[1] / found.samples / "manifest.jsonl").read_text().splitlines()
    long = sum("until the very end" in json.loads(row)["caption"] for row in rows)
    assert long > 5
    for score in found.scores.values():
        aligned = score.metric in ("clip_score", "r_precision", "r_precision_folds")
        assert (f"{long} of 104 captions cut to 12 tokens" in score.note) == aligned


def test_they_reach_the_leaderboard(place, capsys, tmp_path):
    assert main(["compare", str(place[1]), f"out={tmp_path}"]) == 0
    table = next(tmp_path.glob("*.json")).read_text()
    for name in ("fid[inception", "fd[dinov2-tiny", "clip_score[clip-tiny@",
                 "clip_score[clip-tiny-judge/random@"):  # fmt: skip
        assert name in table


def test_somebodys_pictures_are_judged_by_them_alike(place, tmp_path, capsys):
    root, run, shared = place
    theirs = shutil.copytree(root / "pictures" / "test", tmp_path / "theirs")
    assert main(["score", str(theirs), *shared]) == 0
    scores = read_json(theirs / "scores.json")["chosen"]["scores"]
    ours = RunScores.read(run / "scores.json").chosen.scores
    shown = {key.split("|")[0] for key in ours} - {"authpct[inception-v3-tf2015@2048"}
    assert shown <= {key.split("|")[0] for key in scores} | {"vendi_by_prompt"}
    assert "captions cut to 12 tokens" in capsys.readouterr().out


def test_a_larger_run_takes_a_protocol_by_its_own_resize_beside_its_own_scores(
    place, tmp_path, capsys
):
    root, run, shared = place
    own, status = (run / "scores.json").read_bytes(), read_json(run / "status.json")
    drawn = (run / "samples" / "chosen" / "values.csv").read_bytes()
    words = [
        "evaluator=embedded", "protocol.r_precision_folds=0", "protocol.name=small",
        "protocol.images.resolution=8", "protocol.images.resize=lanczos", "protocol.choose_by=null",
        "protocol.test.reference_records=shared",
    ]  # fmt: skip
    assert main(["score", str(run), *words]) == 0
    told = capsys.readouterr()
    (file,) = (run / "scores").glob("small-*.json")
    assert str(file) in told.out and "no clip_score, r_precision: no judge" in told.out
    assert (run / "scores.json").read_bytes() == own and read_json(run / "status.json") == status
    assert (run / "samples" / "chosen" / "values.csv").read_bytes() == drawn
    found = RunScores.read(file)
    samples = SampleSet.load(run / found.chosen.samples)
    assert samples.resolution == 16 and found.chosen.samples == f"samples/{file.stem}/chosen"
    resized = ResizeRecipe(8, "lanczos")
    pictures = [Image.fromarray(p) for p in samples.pixels.permute(0, 2, 3, 1).numpy()]
    source = FolderSource(
        root / "pictures", cache_dir=root / "other", resolution=8, filter="lanczos"
    )
    test, train = source.split("test"), source.split("train")
    network = EfficientNetLite0()
    x = network.features(torch.from_numpy(np.stack([resized(p) for p in pictures])))
    expected = frechet_distance(x, network.features(test.pixels(slice(None))))
    (distance,) = [s for s in found.chosen.scores.values() if s.metric == "fd"]
    assert distance.value == pytest.approx(expected, rel=1e-4)
    (floor,) = [s for s in found.reference["floor"].values() if s.metric == "fd"]
    others = network.features(train.pixels(hashed_order(train)[:104]))
    expected = frechet_distance(others, network.features(test.pixels(slice(None))))
    assert floor.value == pytest.approx(expected, rel=1e-4), "of none of the reference's own images"
    theirs = shutil.copytree(root / "pictures" / "val", tmp_path / "theirs")
    few = ["protocol.test.num_images=16", "protocol.test.reference_size=96"]
    few += ["protocol.test.reference_records=disjoint"]
    assert main(["score", str(theirs), *shared[:6], *words[:-1], *few]) == 0
    (floor,) = [
        s
        for k, s in RunScores.read(theirs / "scores.json").reference["floor"].items()
        if k[:3] == "fd["
    ]
    rows = hashed_order(test)
    x, y = (network.features(test.pixels(some)) for some in (rows[:16], rows[16:]))
    assert floor.value == pytest.approx(frechet_distance(x, y), rel=1e-4), "the rest of the split"
    assert main(["score", str(run), *words]) == 0
    assert "sample gan" not in capsys.readouterr().err, "kept, and not drawn again"
    shown = t2ibench.compare(run, protocol="small").analysis.leaderboard.groups[0].runs[0]
    assert shown.scores.scoring == file.stem and shown.image_values is not None
    assert main(["score", str(run), "protocol.images.resolution=99"]) == 2
    assert "compares images of 99 px" in capsys.readouterr().err
