"""The card beside exported weights: what they are, what they cost, what they scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2ibench.core.types import Score


@dataclass(frozen=True)
class CardFacts:
    """Content of a card; nothing is estimated, and what is not known is left out.

    Attributes:
        name: of the run.
        files: file in the folder -> what it holds.
        use: commands or code that load it.
        model: row -> value: family, text encoder, resolution and so on.
        parameters: part of the network -> number of weights.
        training: row -> value: data, images seen, FLOPs, source of imported weights.
        scores: with their keys and intervals; empty where the run was not scored.
    """

    name: str
    files: Mapping[str, str]
    use: str
    model: Mapping[str, Any]
    parameters: Mapping[str, int]
    training: Mapping[str, Any]
    scores: Sequence[Score] = ()


def card(facts: CardFacts) -> str:
    """The card as markdown."""
    counted = {part: f"{count:,}" for part, count in facts.parameters.items()}
    counted["all"] = f"{sum(facts.parameters.values()):,}"
    sections = [
        f"# {facts.name}",
        table(("file", "holds"), [(f"`{name}`", what) for name, what in facts.files.items()]),
        f"```\n{facts.use.strip()}\n```",
        "## Model",
        table(("", ""), list(facts.model.items())),
        "## Weights",
        table(("part", "number"), list(counted.items())),
        "## Training",
        table(("", ""), list(facts.training.items())),
    ]
    if facts.scores:
        rows = [
            (f"`{s.key}`", f"{s.value:.4g} ({s.ci_low:.4g} to {s.ci_high:.4g})", s.note)
            for s in facts.scores
        ]
        sections += ["## Scores", table(("score", "value (95% interval)", "note"), rows)]
    return "\n\n".join(sections) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A markdown table; bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
