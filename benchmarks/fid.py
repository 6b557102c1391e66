"""From two folders of PNGs to the Fréchet distance, against torch-fidelity and clean-fid.

python benchmarks/fid.py                                  64 images of 256 px, on the CPU
python benchmarks/fid.py --device cuda --images 50000     the same on a GPU

All contenders run one Inception-v3 of random, calibrated weights (the published ones do not come
with this package), and the distances must agree before anything is timed. Rounds are interleaved;
``control`` is ours against ours. The Fréchet step alone is timed on features of 2048 numbers.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from t2ibench.data.decode import Decoder, DecodeReport
from t2ibench.metrics.extractors.inception import InceptionV3, NormedConv
from t2ibench.metrics.frechet import Moments, frechet_distance


def write_pictures(folder: Path, count: int, side: int, seed: int) -> None:
    """Smooth random pictures as PNG."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{number:06d}.png")


def write_weights(path: Path) -> None:
    """An Inception-v3 whose normalisations fit pictures, in torch-fidelity's file format."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    load = FeatureExtractorInceptionV3.load_state_dict
    torch.manual_seed(0)
    blank = path.with_suffix(".blank")
    torch.save({}, blank)
    FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None  # type: ignore
    try:
        network = FeatureExtractorInceptionV3("random", ["2048"], str(blank))
    finally:
        FeatureExtractorInceptionV3.load_state_dict = load  # type: ignore
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.train().momentum = None
    with torch.no_grad():
        network(torch.randint(0, 256, (8, 3, 299, 299)).byte())
    torch.save(network.eval().state_dict(), path)


def ours(folders: list[Path], network: InceptionV3) -> float:
    """This package: its decoder, its Inception, its Fréchet distance."""
    found, decode, report = [], Decoder(policy="raise"), DecodeReport()
    for folder in folders:
        features = []
        paths = sorted(folder.glob("*.png"))
        for start in range(0, len(paths), network.batch_size):
            images = [
                np.asarray(decode(path, path.name, report))
                for path in paths[start : start + network.batch_size]
            ]
            pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            features.append(network.features(pixels))
        found.append(torch.cat(features))
    return frechet_distance(*found)


def torch_fidelity(folders: list[Path], weights: Path, device: str) -> float:
    """torch-fidelity's public function."""
    from torch_fidelity import calculate_metrics

    found = calculate_metrics(
        input1=str(folders[0]),
        input2=str(folders[1]),
        fid=True,
        cuda=device == "cuda",
        batch_size=16,
        cache=False,
        verbose=False,
        feature_extractor_weights_path=str(weights),
    )
    return float(found["frechet_inception_distance"])


def clean_fid(folders: list[Path], network: InceptionV3, device: str) -> float:
    """clean-fid's public function around the same network without folding."""
    from cleanfid import fid

    def extract(images: torch.Tensor) -> torch.Tensor:
        return network.embed((images.to(device) - 128) / 128)

    return float(
        fid.compute_fid(
            str(folders[0]),
            str(folders[1]),
            mode="clean",
            num_workers=0,
            batch_size=16,
            device=torch.device(device),
            custom_feat_extractor=extract,
            use_dataparallel=False,
            verbose=False,
        )
    )


def unfolded(network: InceptionV3) -> InceptionV3:
    """The same network as its file has it: normalisations apart, contiguous."""
    for module in network.modules():
        if isinstance(module, NormedConv):
            module.folded_weight = module.folded_bias = None
    return network.to(memory_format=torch.contiguous_format)


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, after one warm-up."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                took[name].append(time.perf_counter() - start)
    return took


def show(title: str, took: dict[str, list[float]], peer: str, images: int = 0) -> None:
    """Median, spread and how many times as fast as the peer."""
    base = statistics.median(took[peer])
    sys.stdout.write(f"{title} ({len(took[peer])} rounds)\n")
    for name, seconds in took.items():
        median = statistics.median(seconds)
        low, high = min(seconds), max(seconds)
        rate = f"{images / median:8.1f} images/s " if images else ""
        sys.stdout.write(
            f"  {name:28s} {median:8.3f} s [{low:.3f}, {high:.3f}] {rate}"
            f"{base / median:6.2f} x {peer}\n"
        )


def main() -> None:
    """Asserts equal distances, then times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folders = [root / "generated", root / "real"]
        for seed, folder in enumerate(folders):
            write_pictures(folder, given.images, given.side, seed)
        weights = root / "random.pth"
        write_weights(weights)
        fast = InceptionV3(weights).to(given.device)
        clean = InceptionV3(weights, resize="pil-bicubic").to(given.device)
        plain = unfolded(InceptionV3(weights, resize="pil-bicubic")).to(given.device)
        calls: dict[str, Callable[[], float]] = {
            "torch-fidelity": lambda: torch_fidelity(folders, weights, given.device),
            "ours": lambda: ours(folders, fast),
            "ours (control)": lambda: ours(folders, fast),
            "clean-fid": lambda: clean_fid(folders, plain, given.device),
            "ours, pil-bicubic": lambda: ours(folders, clean),
        }
        values = {name: call() for name, call in calls.items()}
        for mine, theirs in (("ours", "torch-fidelity"), ("ours, pil-bicubic", "clean-fid")):
            gap = abs(values[mine] / values[theirs] - 1)
            sys.stdout.write(f"{mine} {values[mine]:.5f}, {theirs} {values[theirs]:.5f}\n")
            # numpy's root of a singular product scatters in the third decimal; ours is exact.
            assert gap < 1e-3, f"{mine} and {theirs} disagree by {gap:.1e}"
        title = f"folder to distance, 2 x {given.images} PNGs of {given.side} px, {given.device}"
        show(title, interleaved(calls, given.rounds), "torch-fidelity", 2 * given.images)
    frechet_step(given.rounds)


def frechet_step(rounds: int, width: int = 2048, count: int = 2600) -> None:
    """The distance of given moments: ours against torchmetrics'."""
    from torchmetrics.image.fid import _compute_fid

    stream = torch.Generator().manual_seed(0)
    x, y = (torch.randn(count, width, generator=stream).double() for _ in range(2))
    y = y * torch.linspace(0.5, 1.5, width) + 0.05
    moments = [(f.mean(0), f.T.cov()) for f in (x, y)]
    ours_moments = [Moments.of(f) for f in (x, y)]

    def theirs() -> float:
        return float(_compute_fid(*moments[0], *moments[1]))

    def mine() -> float:
        return frechet_distance(*ours_moments)

    gap = abs(mine() / theirs() - 1)
    assert gap < 1e-6, f"the two Fréchet steps disagree by {gap:.1e}"
    calls = {"torchmetrics": theirs, "ours": mine, "ours (control)": mine}
    show(f"Fréchet step, width {width}, N {count}", interleaved(calls, rounds), "torchmetrics")


if __name__ == "__main__":
    main()
