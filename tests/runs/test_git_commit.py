"""The commit in a manifest is that of this code or none, with and without git."""

import shutil
import subprocess
from pathlib import Path

import pytest

from t2ibench.runs import folder


def git(where, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(
        ["git", "-C", str(where), *identity, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Somebody's repository with a copy of this file in an environment that it does not track."""
    git(tmp_path, "init", "-q")
    (tmp_path / "theirs.py").write_text("pass\n")
    git(tmp_path, "add", "theirs.py")
    git(tmp_path, "commit", "-qm", "theirs")
    installed = tmp_path / ".venv" / "t2ibench" / "runs"
    installed.mkdir(parents=True)
    copy = Path(shutil.copy(folder.__file__, installed))
    monkeypatch.setattr(folder, "__file__", str(copy))
    return tmp_path


def test_a_strangers_repository_gives_no_commit(project):
    assert folder.git_commit() is None


def test_the_repository_that_tracks_the_code_gives_its_commit(project):
    git(project, "add", ".venv")
    git(project, "commit", "-qm", "vendored")
    assert folder.git_commit() == git(project, "rev-parse", "HEAD")


def test_without_git_there_is_no_commit_and_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert folder.environment()["git"] is None
