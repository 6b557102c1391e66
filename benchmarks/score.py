"""From a folder of captioned PNGs to every metric of `standard`, against torch-fidelity's set.

python benchmarks/score.py                                  128 images of 256 px, on the CPU
python benchmarks/score.py --device cuda --images 50000     the same on a GPU

Ours: decode, Inception-v3 and an in-domain dual encoder, then Fréchet distance (FD-infinity from
2,000 images on), KID, precision, recall, density, coverage, Vendi, AuthPct, CLIP-score, CMMD and
R-precision (from 100 images on), with their intervals.
torch-fidelity: decode, the same network, then FID, KID (100 subsets) and Inception Score. FIDs
must agree before anything is timed. No cache is warm: each round reads both folders again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from fid import interleaved, show, write_pictures, write_weights

from t2ibench.data.folder import FolderSource
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.external import read_folder
from t2ibench.evaluation.protocol import Protocol
from t2ibench.metrics.dual_encoder import DualEncoder
from t2ibench.metrics.extractors.inception import InceptionV3

METRICS = {"fd", "kid", "precision", "recall", "density", "coverage"}
METRICS |= {"vendi", "authpct", "clip_score", "cmmd-style"}


def captioned(folder: Path, count: int, side: int, seed: int) -> None:
    """Pictures, each with a caption of its own beside it."""
    write_pictures(folder, count, side, seed)
    for path in folder.glob("*.png"):
        path.with_suffix(".txt").write_text(f"a picture number {path.stem}\n")


def ours(root: Path, side: int, count: int, network: InceptionV3, encoder: DualEncoder) -> float:
    """This package: folders to every score; gives the FID."""
    with tempfile.TemporaryDirectory() as cache:
        source = FolderSource(root=root / "real", resolution=side, cache_dir=cache)
        protocol = Protocol(
            name="speed",
            split="test",
            num_images=count,
            caption="first",
            sampling_seed=0,
            reference_split="test",
            reference_size=count,
            memorisation=True,
        )
        evaluator = Evaluator(
            protocol=protocol,
            reference=source.split("test"),
            extractors=[network],
            dual_encoders=[encoder],
            train=source.split("test"),
        )
        generated = read_folder(root / "generated", side, Path(cache))
        scores = evaluator.evaluate(generated).scores
    missing = METRICS - {key.split("[")[0] for key in scores}
    assert not missing, f"not measured: {missing}"
    # Random weights earn the name fd, not fid.
    return next(s.value for key, s in scores.items() if key.startswith("fd[inception"))


def torch_fidelity(root: Path, weights: Path, count: int, device: str) -> float:
    """torch-fidelity's public function with all that it measures in one call."""
    from torch_fidelity import calculate_metrics

    found = calculate_metrics(
        input1=str(root / "generated"),
        input2=str(root / "real" / "test"),
        fid=True,
        kid=True,
        isc=True,
        kid_subset_size=min(1000, count),
        cuda=device == "cuda",
        batch_size=16,
        cache=False,
        verbose=False,
        samples_find_ext="png",
        feature_extractor_weights_path=str(weights),
    )
    return float(found["frechet_inception_distance"])


def main() -> None:
    """Asserts equal distances, then times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for seed, folder in enumerate(("generated", "real/test", "real/train", "real/val")):
            count = given.images if seed < 2 else 8
            captioned(root / folder, count, given.side, seed)
        weights = root / "random.pth"
        write_weights(weights)
        network = InceptionV3(weights).to(given.device)
        encoder = DualEncoder.load("shapes-clip-v1").to(given.device)
        calls = {
            "torch-fidelity": lambda: torch_fidelity(root, weights, given.images, given.device),
            "ours": lambda: ours(root, given.side, given.images, network, encoder),
            "ours (control)": lambda: ours(root, given.side, given.images, network, encoder),
        }
        theirs, mine = calls["torch-fidelity"](), calls["ours"]()
        sys.stdout.write(f"FID: ours {mine:.5f}, torch-fidelity {theirs:.5f}\n")
        assert abs(mine / theirs - 1) < 1e-3, "the two FIDs disagree"
        took = interleaved(calls, given.rounds)
    title = f"folder to all metrics, 2 x {given.images} PNGs of {given.side} px, {given.device}"
    show(title, took, "torch-fidelity", 2 * given.images)


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
