"""The whole comparison as one JSON document, for programs."""

from __future__ import annotations

import json
from typing import Any

from t2ibench.core.types import Score
from t2ibench.report.analysis import Analysis
from t2ibench.report.compare import Comparison, seed_values
from t2ibench.report.formats import cost_values
from t2ibench.report.groups import Group
from t2ibench.report.holes import Hole
from t2ibench.report.pareto import to_dict as pareto_dict

SCHEMA = 1


def to_json(found: Analysis) -> str:
    """Indented JSON with the keys in a fixed order."""
    return json.dumps(document(found), indent=2, ensure_ascii=False) + "\n"


def document(found: Analysis) -> dict[str, Any]:
    """Models, pairs, ranks and fronts as JSON-ready values; every digit kept."""
    board = found.board
    return {
        "schema": SCHEMA,
        "facts": board.facts,
        "columns": [
            {
                "key": column.key,
                "metric": column.metric.name,
                "better": column.metric.better,
                "leaders": sorted(found.leaders[column.key]),
            }
            for column in board.columns
        ],
        "models": [_model(group, board.all_keys) for group in board.groups],
        "references": [
            {"label": row.label, "meaning": row.meaning, "scores": _scores(row.scores)}
            for row in board.references
        ],
        "correction": found.family,
        "pairs": [_pair(pair) for pair in found.pairs],
        "rank_probabilities": [
            {
                "key": ranking.key,
                "basis": ranking.basis,
                "models": {label: list(p) for label, p in ranking.probabilities.items()},
            }
            for ranking in found.rankings
        ],
        "knob_fronts": [
            {
                "x_key": front.x_key,
                "y_key": front.y_key,
                "reference": list(front.reference),
                "dominated_shares": front.volumes,
                "gaps_at_equal_x": [
                    dict(zip(("first", "second", "gap", "low", "high"), gap, strict=True))
                    for gap in front.gaps
                ],
            }
            for front in found.fronts
        ],
        "pareto_fronts": [pareto_dict(front) for front in found.pareto],
        "in_no_row": [_hole(hole) for hole in board.strays],
        "cautions": found.cautions(),
    }


def _model(group: Group, keys: tuple[str, ...]) -> dict[str, Any]:
    cells = {key: cell for key in keys if (cell := group.cell(key)) is not None}
    return {
        "label": group.label,
        "family": group.family,
        "runs": [str(run.path) for run in group.runs],
        "seeds": [run.scores.model["seed"] for run in group.runs],
        "planned_seeds": group.planned,
        "holes": [_hole(hole) for hole in group.holes],
        "scores": {
            key: {
                "value": cell.value,
                "ci_low": cell.low,
                "ci_high": cell.high,
                "sd": cell.sd,
                "seeds": cell.seeds,
                "basis": cell.basis,
                "by_seed": seed_values(group, key).tolist(),
                "note": cell.note,
            }
            for key, cell in cells.items()
        },
        "cost": cost_values(group),
    }


def _pair(pair: Comparison) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "caveat": pair.caveat,
        "tests": [
            {
                "key": row.key,
                "first": row.first,
                "second": row.second,
                "difference": row.difference,
                "ci_low": row.low,
                "ci_high": row.high,
                "p_value": row.p_value,
                "p_holm": row.adjusted,
                "test": row.method,
                "distinguishable": row.distinguishable,
                "verdict": row.verdict(pair.first, pair.second),
            }
            for row in pair.differences
        ],
        "configuration": [
            {"key": key, "first": first, "second": second}
            for key, first, second in pair.configuration
        ],
    }


def _hole(hole: Hole) -> dict[str, Any]:
    return {"run": hole.name, "seed": hole.seed, "state": hole.state, "reason": hole.reason}


def _scores(scores: dict[str, Score]) -> dict[str, Any]:
    return {key: score.to_dict() for key, score in scores.items()}
