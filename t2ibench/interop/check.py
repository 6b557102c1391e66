"""Tensors that are missing, surplus or of another shape: one error that names them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from t2ibench.core.errors import CheckpointError

SHOWN = 3
"""Names of a group that are spelled out."""

REMEDY = (
    "download it again, or give a checkpoint of Stable Diffusion v1's or LDM's text-to-image layout"
)
"""Remedy for a diffusion model's file."""

GROUP_WORDS = 3
"""Words of a name that make its group: ``model.diffusion_model.input_blocks``."""


def check_fit(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    source: str,
    remedy: str = REMEDY,
) -> None:
    """Compares names and shapes.

    Args:
        expected: what the layout needs, as the file would name it.
        found: what the file has.
        source: the file, for the message.
        remedy: what the user can do.

    Raises:
        CheckpointError: they differ; every group of names is listed with its count.
    """
    shapes = [
        f"{n} {tuple(found[n])} for {tuple(expected[n])}"
        for n in expected
        if n in found and tuple(found[n]) != tuple(expected[n])
    ]
    problems = [
        f"{len(names)} {kind} ({grouped(names)})"
        for kind, names in (
            ("missing", sorted(set(expected) - set(found))),
            ("surplus", sorted(set(found) - set(expected))),
            ("of another shape", shapes),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source} does not fit the layout that its tensors suggest: {', '.join(problems)}; "
            f"{remedy}."
        )


def grouped(names: Iterable[str]) -> str:
    """Names by their first words: each group's count and its first names."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(".".join(name.split(" ")[0].split(".")[:GROUP_WORDS]), []).append(name)
    lines = []
    for prefix, members in groups.items():
        dots = ", …" if len(members) > SHOWN else ""
        lines.append(f"{prefix}: {len(members)}, {', '.join(members[:SHOWN])}{dots}")
    return "; ".join(lines)
