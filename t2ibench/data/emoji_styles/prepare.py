"""Makes the emoji_styles folder: fetch, render, group, split, write; once and resumably.

The folder holds ``packages/`` (the tarballs), ``images-64.npy`` and ``images-32.npy``
((N, 3, H, H) uint8 in the order of the manifest), ``manifest.jsonl``, ``LICENSES.txt`` and,
written last, ``dataset.json``: where that file stands, the rest is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from t2ibench.core.errors import DataError
from t2ibench.core.files import atomic_path, exclusive, read_json, write_json
from t2ibench.core.hashing import hash_file, hash_json
from t2ibench.data.cache import ArrayCache
from t2ibench.data.emoji_styles.captions import captions_of
from t2ibench.data.emoji_styles.concepts import (
    Concept,
    UnionFind,
    join_icons,
    read_concepts,
    twin_groups,
)
from t2ibench.data.emoji_styles.packages import (
    LABELS,
    STYLES,
    Package,
    fetch_packages,
    read_member,
)
from t2ibench.data.emoji_styles.render import (
    MARGIN,
    RENDER_SIDE,
    RESOLUTIONS,
    find_icon,
    render_icon,
)
from t2ibench.data.emoji_styles.splits import (
    HOLDOUTS,
    assert_no_shared_raster,
    compose_splits,
    zeroshot_split,
)

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""Raised whenever grouping, splitting, captions or rendering change."""

DATASET_FILE = "dataset.json"
MANIFEST_FILE = "manifest.jsonl"


def images_file(resolution: int) -> str:
    """The file of all images of one resolution."""
    return f"images-{resolution}.npy"


def recipe_fingerprint(styles: tuple[Package, ...] = STYLES, labels: Package = LABELS) -> str:
    """Identity of what ``prepare`` yields, known without fetching or rendering."""
    packages = [[p.name, p.version, p.sha256, p.style] for p in (*styles, labels)]
    return hash_json(["emoji_styles", FORMAT_VERSION, RENDER_SIDE, MARGIN, packages])


def prepare_emoji_styles(
    root: str | Path, styles: tuple[Package, ...] = STYLES, labels: Package = LABELS
) -> dict[str, Any]:
    """Prepares the data set under ``root``; returns at once when it is there already.

    Args:
        root: the data set's own folder.
        styles: the packages of drawings.
        labels: the package of names.

    Returns:
        What ``dataset.json`` holds: counts per split and style, refused drawings, hashes.

    Raises:
        DataError: npm or the network is missing, a package is not the pinned one, or the
            splits would share a picture.
    """
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with exclusive(root / ".prepare.lock"):
        recipe = recipe_fingerprint(styles, labels)
        if (root / DATASET_FILE).exists():
            dataset = read_json(root / DATASET_FILE)
            if dataset.get("recipe") == recipe and _is_whole(root, dataset):
                return dataset
            (root / DATASET_FILE).unlink()
        return _prepare(root, styles, labels, recipe)


def _is_whole(root: Path, dataset: Mapping[str, Any]) -> bool:
    sizes = dataset["sizes"]
    return all(
        (root / name).exists() and (root / name).stat().st_size == size
        for name, size in sizes.items()
    )


def _prepare(
    root: Path, styles: tuple[Package, ...], labels: Package, recipe: str
) -> dict[str, Any]:
    tarballs = fetch_packages((*styles, labels), root / "packages")
    table = read_member(tarballs[-1], "en/data.json")
    if table is None:
        raise DataError(f"{tarballs[-1].name} has no en/data.json; the package has changed.")
    concepts = read_concepts(table)

    parts = ArrayCache(root / "parts")
    images: dict[int, list[np.ndarray]] = {resolution: [] for resolution in RESOLUTIONS}
    drawn: list[tuple[str, Package]] = []
    refused: dict[str, str] = {}
    for package, tarball in zip(styles, tarballs, strict=False):
        part = parts.get_or_build(
            f"{package.style}-{recipe}",
            partial(_render_style, package, tarball, concepts),
        )
        drawn += [(str(key), package) for key in part["keys"]]
        for resolution in RESOLUTIONS:
            images[resolution].append(part[f"images_{resolution}"])
        for key, why in zip(part["refused"], part["reasons"], strict=True):
            refused[f"{package.style}/{key}"] = str(why)
    stacked = {resolution: np.concatenate(arrays) for resolution, arrays in images.items()}

    rows = _manifest(concepts, drawn, stacked)
    for resolution, array in stacked.items():
        with (
            atomic_path(root / images_file(resolution)) as aside,
            open(aside, "wb") as file,
        ):
            np.save(file, array)
    with atomic_path(root / MANIFEST_FILE) as aside:
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with atomic_path(root / "LICENSES.txt") as aside:
        aside.write_text(_licences(styles, labels), encoding="utf-8")
    dataset = _dataset(root, recipe, rows, refused, styles)
    write_json(root / DATASET_FILE, dataset)
    shutil.rmtree(root / "parts", ignore_errors=True)
    return dataset


def _render_style(
    package: Package, tarball: Path, concepts: Mapping[str, Concept]
) -> dict[str, np.ndarray]:
    """All drawings of one style, with their concept keys and what was refused."""
    icon_set = read_member(tarball, "icons.json")
    if icon_set is None:
        raise DataError(f"{tarball.name} has no icons.json; the package has changed.")
    parents: dict[str, str | None] = dict.fromkeys(icon_set["icons"])
    parents |= {alias: entry["parent"] for alias, entry in icon_set.get("aliases", {}).items()}
    joined = join_icons(concepts, parents, read_member(tarball, "chars.json") or {})
    keys: list[str] = []
    images: dict[int, list[np.ndarray]] = {resolution: [] for resolution in RESOLUTIONS}
    refused: dict[str, str] = {}
    steps = track(
        sorted(joined.items()),
        description=f"rendering {package.style}",
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    for key, name in steps:
        try:
            rendered = render_icon(find_icon(icon_set, name))
        except DataError as error:
            refused[key] = str(error)
            continue
        keys.append(key)
        for resolution, image in rendered.items():
            images[resolution].append(image)
    log.info("%s: %d drawings, %d refused", package.style, len(keys), len(refused))
    if not keys:
        raise DataError(f"{tarball.name} gave no drawing at all; the package has changed.")
    return {
        "keys": np.array(keys),
        "refused": np.array(list(refused), dtype=np.str_),
        "reasons": np.array(list(refused.values()), dtype=np.str_),
        **{f"images_{resolution}": np.stack(array) for resolution, array in images.items()},
    }


def _manifest(
    concepts: Mapping[str, Concept],
    drawn: list[tuple[str, Package]],
    images: Mapping[int, np.ndarray],
) -> list[dict[str, Any]]:
    """One row a drawing, with its split under both protocols.

    Raises:
        DataError: identical images would be in two splits.
    """
    hashes = {
        resolution: [hashlib.sha256(image.tobytes()).hexdigest() for image in array]
        for resolution, array in images.items()
    }
    groups, twins = _groups(concepts, drawn, hashes)
    triples = [(groups.find(key), key, package.style) for key, package in drawn]
    splits = {
        "compose": compose_splits(triples, twins),
        "zeroshot": [zeroshot_split(group) for group, _, _ in triples],
    }
    for holdout in HOLDOUTS:
        for resolution in RESOLUTIONS:
            assert_no_shared_raster(
                hashes[resolution], splits[holdout], f"emoji_styles/{holdout} at {resolution} px"
            )
    rows = []
    for i, (key, package) in enumerate(drawn):
        concept = concepts[key]
        rows.append(
            {
                "key": f"{package.style}/{key}",
                "captions": captions_of(concept, package.style),
                "group": groups.find(key),
                "splits": {holdout: splits[holdout][i] for holdout in HOLDOUTS},
                "meta": {
                    "style": package.style,
                    "label": concept.label,
                    "concept": key,
                    "tags": concept.tags,
                    "licence": package.licence,
                    "source": f"{package.name}@{package.version}",
                },
            }
        )
    return rows


def _groups(
    concepts: Mapping[str, Concept],
    drawn: list[tuple[str, Package]],
    hashes: Mapping[int, list[str]],
) -> tuple[UnionFind[str], dict[str, set[str]]]:
    """Near-twin concepts plus all that share a raster; and the styles that share one."""
    groups = twin_groups(concepts)
    sharing: list[set[int]] = []
    for digests in hashes.values():
        by_hash: dict[str, set[int]] = defaultdict(set)
        for i, digest in enumerate(digests):
            by_hash[digest].add(i)
        sharing += [members for members in by_hash.values() if len(members) > 1]
    for members in sharing:
        keys = [drawn[i][0] for i in sorted(members)]
        for key in keys[1:]:
            groups.union(keys[0], key)
    twins: dict[str, set[str]] = defaultdict(set)
    for members in sharing:
        styles = {drawn[i][1].style for i in members}
        if len(styles) > 1:
            twins[groups.find(drawn[min(members)][0])] |= styles
    return groups, twins


def _dataset(
    root: Path,
    recipe: str,
    rows: list[dict[str, Any]],
    refused: dict[str, str],
    styles: tuple[Package, ...],
) -> dict[str, Any]:
    files = [MANIFEST_FILE, "LICENSES.txt", *(images_file(r) for r in RESOLUTIONS)]
    return {
        "name": "emoji_styles",
        "version": FORMAT_VERSION,
        "recipe": recipe,
        "images": len(rows),
        "concepts": len({row["meta"]["concept"] for row in rows}),
        "groups": len({row["group"] for row in rows}),
        "styles": dict(Counter(row["meta"]["style"] for row in rows)),
        "splits": {
            holdout: dict(sorted(Counter(row["splits"][holdout] for row in rows).items()))
            for holdout in HOLDOUTS
        },
        "refused": refused,
        "resize": f"alpha box + {MARGIN:.0%}, white, bicubic",
        "licences": {package.style: package.licence for package in styles},
        "sha256": {name: hash_file(root / name) for name in files},
        "sizes": {name: (root / name).stat().st_size for name in files},
    }


def _licences(styles: tuple[Package, ...], labels: Package) -> str:
    lines = [
        "The images in this folder are renderings of these drawings, each under its own licence.",
        "Pass them on only under these terms, with these names; the share-alike licence",
        "(CC-BY-SA) applies to renderings too.",
        "",
    ]
    for package in styles:
        lines.append(f"{package.style}: {package.licence}, {package.author}, {package.url}")
        lines.append(f"    from {package.name} {package.version}")
    lines.append(f"names and tags: {labels.licence}, {labels.author}, {labels.url}")
    lines.append(f"    from {labels.name} {labels.version}")
    return "\n".join(lines) + "\n"
