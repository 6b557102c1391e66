"""Whatever kills a sweep's processes, and whenever: typed again, it ends as if left alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from t2ibench.core.files import ASIDE, read_json

DRIVER = Path(__file__).with_name("chaos.py")
ROOT = Path(__file__).parents[2]


def test_a_sweep_killed_at_twenty_moments_has_the_same_scores(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(DRIVER), str(tmp_path)]
    answer = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=550
    )
    log = tmp_path / "killed.log"
    assert answer.returncode == 0, answer.stderr + (log.read_text() if log.exists() else "")
    told = read_json(tmp_path / "kills.json")
    assert len(told["kills"]) == 20 and told["last"] == 0
    for kill in told["kills"]:
        # A signal that can be caught ends in an orderly way: 130, never in a traceback.
        assert kill["status"] == (-signal.SIGKILL if kill["signal"] == "SIGKILL" else 130)
    assert "Traceback" not in log.read_text()
    sweeps = sorted(tmp_path.glob("killed*/runs"))
    for runs in sweeps:
        check_equal(tmp_path / "whole" / "runs", runs)


def check_equal(whole, killed):
    """Runs of the same names, states, weights and scores; nothing half-written left."""
    names = sorted(path.parent.name for path in whole.glob("*/status.json"))
    assert names == sorted(path.parent.name for path in killed.glob("*/status.json"))
    assert len([name for name in names if not name.startswith("first_stage")]) == 2
    for name in names:
        assert read_json(killed / name / "status.json")["state"] == "finished"
        weights = sorted(p.relative_to(whole) for p in (whole / name).rglob("*.safetensors"))
        assert weights
        for path in weights:
            assert (whole / path).read_bytes() == (killed / path).read_bytes(), path
        if not name.startswith("first_stage"):
            one, two = (read_json(runs / name / "scores.json") for runs in (whole, killed))
            for part in ("chosen", "front", "reference", "knob", "protocol"):
                assert one[part] == two[part], f"{name}: {part}"
    assert not [path for path in killed.rglob(".*") if ASIDE.fullmatch(path.name)]
