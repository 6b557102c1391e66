"""Studies on a real cluster: arrays, preemption, time limits, lost nodes, double launches."""

import pytest
import torch
from distributed.same import assert_same_training
from safetensors.torch import load_file
from slurm.conftest import finish, until

from t2ibench.core.files import read_json
from t2ibench.runs.folder import Run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(500)]

LONG = ["budget.amount=2400", "trainer.checkpoint_every_seconds=600"]
"""Twenty seconds of training without a checkpoint on the way."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    """Weights, curves and scores of a run of 2,400 images that nobody stopped."""
    from slurm.conftest import Place

    place = Place(tmp_path_factory.mktemp("undisturbed"), cache)
    code, told = place.trained(*LONG, "seed=0")
    assert code == 0, told
    return results(place)


def results(place):
    """Of the only run of a place."""
    (folder,) = (path.parent for path in place.runs.glob("*/scores.json"))
    curves = [
        [value for name, value in zip(header, row, strict=True) if name != "seconds"]
        for header, row in table(folder / "metrics.csv")
    ]
    scores = read_json(folder / "scores.json")["chosen"]["scores"]
    return load_file(folder / "checkpoints" / "model.safetensors"), curves, scores


def table(path):
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    return [(header, row) for row in rows]


def assert_equal(found, wanted):
    weights, curves, scores = found
    assert weights.keys() == wanted[0].keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in wanted[0].items())
    assert curves == wanted[1]
    assert scores == wanted[2]


def running(cluster, images, place):
    """Whether the only run of a place has logged that many images."""

    def begun():
        rows = [file.read_text().splitlines()[-1] for file in place.runs.glob("*/metrics.csv")]
        return any(row.split(",")[0].isdigit() and int(row.split(",")[0]) >= images for row in rows)

    return begun


def test_two_nodes_train_one_cell_as_one_does(cluster, place, cache, tmp_path):
    lone = type(place)(tmp_path / "lone", cache)
    code, told = lone.trained("budget.amount=96")
    assert code == 0, told
    nodes = ["hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=1", "trainer.num_nodes=2"]
    code, told = finish(place.sweep("budget.amount=96", "study.name=nodes", *nodes))
    assert code == 0, told + place.logs("nodes")
    used = cluster.asked("sacct", "-nX", "--name=nodes", "--format=NNodes,State", "--parsable2")
    assert used.splitlines()[-1] == "2|COMPLETED"
    (found,), (wanted,) = ([*where.runs.glob("*/scores.json")] for where in (place, lone))
    assert_same_training(Run.at(found.parent), Run.at(wanted.parent))


def test_an_array_of_three_cells(cluster, place):
    process = place.sweep("budget.amount=96", "seed=0,1,2", "study.name=array")
    code, told = finish(process)
    assert code == 0, told
    assert "study array: 3 finished." in told
    assert len(list(place.runs.glob("*/scores.json"))) == 3
    lines = cluster.asked(
        "sacct", "-nX", "--name=array", "--format=JobID,State", "--parsable2"
    ).splitlines()
    jobs = [line.split("|") for line in lines][-3:]
    assert len({number.split("_")[0] for number, _ in jobs}) == 1, "one array"
    assert [state for _, state in jobs] == ["COMPLETED"] * 3


def test_a_preempted_job_ends_as_if_nothing_had_happened(cluster, place, undisturbed):
    options = ["hydra.launcher.partition=scavenge", "study.name=preempted"]
    process = place.sweep(*LONG, "seed=0", *options)
    until(running(cluster, 400, place))
    urgent = cluster.asked(
        "sbatch",
        "--parsable",
        "--partition=main",
        "--nodes=2",
        "--exclusive",
        "--output=/dev/null",
        "--wrap=sleep 1",
    )
    assert urgent
    code, told = finish(process)
    assert code == 0, told + place.logs("preempted")
    restarts = cluster.asked(
        "sacct", "-nXD", "--name=preempted", "--format=State", "--parsable2"
    ).split()
    assert "PREEMPTED" in restarts or "REQUEUED" in restarts, restarts
    assert_equal(results(place), undisturbed)


def test_a_time_limit_is_only_a_pause(cluster, place, cache, tmp_path):
    # SLURM looks at limits twice a minute: its signal comes 10 to 40 s after the start.
    words = ["budget.amount=7200", "trainer.checkpoint_every_seconds=600", "seed=0"]
    options = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20"]
    process = place.sweep(*words, *options, "study.name=limited")
    code, told = finish(process)
    assert code == 0, told + place.logs("limited")
    states = cluster.asked("sacct", "-nXD", "--name=limited", "--format=State", "--parsable2")
    assert len(states.split()) > 1, f"the limit did not come: {states}"
    lone = type(place)(tmp_path / "lone", cache)
    code, told = lone.trained(*words)
    assert code == 0, told
    assert_equal(results(place), results(lone))


def test_a_lost_node_costs_nothing_that_was_saved(cluster, place, undisturbed):
    options = ["budget.amount=2400", "trainer.checkpoint_every_seconds=2"]
    process = place.sweep(*options, "seed=0", "study.name=lost")
    until(running(cluster, 800, place))
    node = cluster.asked("squeue", "--noheader", "--name=lost", "--format=%N").split()[0]
    try:
        cluster.asked("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
        code, told = finish(process)
    finally:
        cluster.asked("scontrol", "update", f"NodeName={node}", "State=RESUME")
    if code != 0:  # reported as dead: the same command goes on
        code, told = finish(place.sweep(*options, "seed=0", "study.name=lost"))
    assert code == 0, told + place.logs("lost")
    assert_equal(results(place), undisturbed)


def test_two_launchers_run_each_cell_once(cluster, place):
    words = ["budget.amount=96", "seed=0,1", "study.name=double"]
    first, second = place.sweep(*words), place.sweep(*words)
    told = [finish(process)[1] for process in (first, second)]
    assert any("study double: 2 finished." in text for text in told), told
    drawn = place.logs("double").count("chosen: 160 images")
    assert drawn == 2, place.logs("double")
