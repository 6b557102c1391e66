"""Published weights from a real server on this machine: right, wrong, cut off, absent."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from t2ibench.cli.main import main
from t2ibench.core.errors import MissingWeightsError
from t2ibench.metrics.extractors import published
from t2ibench.metrics.extractors.clip import OpenClip, TransformersClip
from t2ibench.metrics.extractors.download import download
from t2ibench.metrics.extractors.inception import InceptionV3
from t2ibench.metrics.extractors.published import PUBLISHED, PublishedFile, PublishedWeights

CONTENT = b"weights" * 300_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/whole is the file, /cut ends early, anything else is not there."""

    def do_GET(self):
        if self.path not in ("/whole", "/cut"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[:1000])

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_whole_file_arrives_under_its_name_alone(address, tmp_path):
    target = tmp_path / "deep" / "weights.pth"
    download(f"{address}/whole", target, SHA256)
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize(
    ("path", "sha256", "words"),
    [
        ("/whole", "0" * 64, f"gave a file with SHA-256 {SHA256}, the published one has 0000"),
        ("/cut", SHA256, "cannot be reached from here .*more expected"),
        ("/absent", SHA256, "answered 404 .*put it at"),
    ],
)
def test_anything_else_leaves_what_was_there(address, tmp_path, path, sha256, words):
    target = tmp_path / "weights.pth"
    target.write_bytes(b"before")
    with pytest.raises(MissingWeightsError, match=words):
        download(address + path, target, sha256)
    assert target.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_no_network_is_one_clear_sentence(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"cannot be reached from here .*put it at .*SHA"):
        download("http://127.0.0.1:9/weights.pth", tmp_path / "weights.pth", SHA256)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(address, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MissingWeightsError, match=r"weights.pth cannot be written .*put it at"):
        download(f"{address}/whole", tmp_path / "file" / "weights.pth", SHA256)


def test_the_verb_fetches_checks_and_does_nothing_twice(address, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    files = tuple(PublishedFile(n, f"{address}/whole", SHA256) for n in ("a.bin", "config.json"))
    toy = PublishedWeights("toy", "tests", "2 MB", "CC0", "T2IBENCH_TOY", files)
    monkeypatch.setitem(published.PUBLISHED, "toy", toy)
    assert not toy.present
    assert main(["fetch", "toy"]) == 0
    assert toy.present and toy.locate(None) == tmp_path / "toy"
    before = (tmp_path / "toy" / "a.bin").stat().st_mtime_ns
    assert main(["fetch", "toy"]) == 0
    assert "is here and whole" in capsys.readouterr().out
    assert (tmp_path / "toy" / "a.bin").stat().st_mtime_ns == before
    (tmp_path / "toy" / "a.bin").write_bytes(b"damaged")
    assert main(["fetch", "toy"]) == 0
    assert (tmp_path / "toy" / "a.bin").read_bytes() == CONTENT


def test_the_list_says_what_is_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    assert main(["fetch"]) == 0
    text = capsys.readouterr().out
    for weights in PUBLISHED.values():
        assert weights.files[0].sha256 in text and str(weights.target) in text
    assert "here " not in text
    assert main(["fetch", "everything"]) == 2
    assert "choose inception, clip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("inception", lambda: InceptionV3()),
        ("clip", lambda: TransformersClip()),
        ("open_clip", lambda: OpenClip("ViT-B-32", "/nowhere.safetensors", "laion2b_s34b_b79k")),
    ],
)
def test_every_missing_network_names_file_hash_place_and_command(tmp_path, monkeypatch, name, make):
    monkeypatch.setenv("T2IBENCH_WEIGHTS", str(tmp_path))
    for weights in PUBLISHED.values():
        monkeypatch.delenv(weights.environment or "NONE", raising=False)
    with pytest.raises(MissingWeightsError) as caught:
        make()
    weights, sentence = PUBLISHED[name], str(caught.value)
    for part in (weights.files[0].name, weights.files[0].sha256, str(weights.target)):
        assert part in sentence
    assert f"`t2ibench fetch {name}`" in sentence
