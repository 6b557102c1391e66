"""The ledger says of each cell what its run folder says."""

import csv
from dataclasses import replace

import pytest

from t2ibench.core.errors import RunError
from t2ibench.core.files import read_json
from t2ibench.runs.curves import MetricsFile
from t2ibench.runs.folder import Run
from t2ibench.runs.ledger import Cell, Ledger, Progress, studies, summary


def cell(seed=0):
    return Cell(f"gan-seed{seed}", f"{seed:016x}", (f"seed={seed}", "size=xs"), f"seed={seed}")


@pytest.fixture
def ledger(tmp_path):
    """A study of one cell."""
    made = Ledger(tmp_path, "first")
    made.register([cell()])
    return made


@pytest.fixture
def run(ledger):
    """The run folder of its cell."""
    return Run(ledger.root / cell().run, cell().identity)


def test_a_cell_never_begun_is_missing(ledger, run):
    assert ledger.progress(cell()) == Progress("missing")
    assert not run.path.exists()  # asking makes no folder
    run.set_status("created")
    assert ledger.progress(cell()) == Progress("missing")


@pytest.mark.parametrize("state", ["running", "interrupted", "trained"])
def test_a_cell_that_nobody_holds_is_interrupted(ledger, run, state):
    run.set_status(state)
    assert ledger.progress(cell()).state == "interrupted"


@pytest.mark.parametrize("state", ["created", "running", "interrupted", "failed"])
def test_a_cell_that_is_held_is_running(ledger, run, state):
    run.set_status(state)
    with run.locked():
        found = ledger.progress(cell())
        assert found.state == "running"
        assert found.detail == f"on {run.lock.holder()}"


def test_a_finished_cell_is_finished(ledger, run):
    run.set_status("finished")
    assert ledger.progress(cell()) == Progress("finished")


def test_a_failed_cell_says_the_first_line_and_how_often(ledger, run):
    run.set_status("failed", reason="\nthe loss is nan\nat step 3", failures=2)
    assert ledger.progress(cell()) == Progress("failed", 2, "the loss is nan")
    run.set_status("failed")
    assert ledger.progress(cell()) == Progress("failed", 2, "no reason told")


def test_how_often_it_failed_stays_known(ledger, run):
    run.set_status("failed", reason="no", failures=2)
    run.set_status("running")
    assert ledger.progress(cell()) == Progress("interrupted", 2)


def test_what_a_cell_spent_is_the_last_row_of_its_curves(ledger, run):
    run.set_status("running")
    metrics = MetricsFile(run.path / "metrics.csv")
    metrics.append({"images_seen": 32, "flops": 1e9, "seconds": 0.5, "train/loss": 3.0})
    metrics.append({"images_seen": 64, "flops": 2e9, "seconds": 1.0, "train/loss": 2.0})
    spent = {"images_seen": 64.0, "flops": 2e9, "seconds": 1.0}
    assert ledger.progress(cell()) == Progress("interrupted", spent=spent)


def test_curves_without_a_row_say_nothing(ledger, run):
    run.set_status("running")
    with open(run.path / "metrics.csv", "w", newline="") as file:
        csv.writer(file).writerow(["images_seen", "flops", "seconds"])
    assert ledger.progress(cell()).spent is None


def test_cells_come_back_in_the_order_of_their_names(ledger):
    ledger.register([cell(2), cell(1)])
    assert ledger.cells() == [cell(0), cell(1), cell(2)]
    assert ledger.cell("gan-seed1") == cell(1)


def test_the_same_cell_again_writes_nothing(ledger):
    path = ledger.folder / "gan-seed0.json"
    before = path.read_bytes(), path.stat().st_mtime_ns
    ledger.register([cell()])
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_what_was_asked_for_last_counts_and_the_label_stays(ledger):
    path = ledger.folder / "gan-seed0.json"
    before = read_json(path)["registered"]
    again = Cell("gan-seed0", cell().identity, ("seed=0", "protocol=standard"), "")
    ledger.register([again, cell(1)])
    assert ledger.cells() == [replace(again, label="seed=0"), cell(1)]
    assert read_json(path)["registered"] == before


def test_cells_without_a_label_are_told_by_what_they_do_not_share(ledger):
    for seed in (1, 2):
        ledger.register([replace(cell(seed), label="")])
    assert [c.label for c in ledger.cells()] == ["seed=0", "seed=1", "seed=2"]


def test_the_folder_of_jobs_is_no_cell(ledger):
    (ledger.jobs / "12").mkdir(parents=True)
    (ledger.jobs / "12" / "config.json").write_text("{}")
    assert ledger.cells() == [cell()]


def test_an_unknown_study_names_the_known(ledger, tmp_path):
    Ledger(tmp_path, "second").register([cell()])
    assert studies(tmp_path) == ["first", "second"]
    with pytest.raises(RunError, match=r"no study third \(it has: first, second\); .*study.name"):
        Ledger(tmp_path, "third").cells()
    with pytest.raises(RunError, match=r"\(it has: none\)"):
        Ledger(tmp_path / "nowhere", "first").cells()


def test_a_summary_counts_in_the_order_of_success():
    found = [Progress("failed", 1), *[Progress("finished")] * 2, Progress("missing")]
    assert summary(found) == "2 finished, 1 failed, 1 missing"
    assert summary([]) == "no cells"
