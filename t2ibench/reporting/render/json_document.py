"""The whole comparison as one JSON document, for programs."""

from __future__ import annotations

import json
from typing import Any

from t2ibench.reporting.read.missing import MissingRun
from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.sentences import absences
from t2ibench.reporting.render.table import Table
from t2ibench.reporting.statistics.comparisons import Comparison
from t2ibench.reporting.statistics.curves import atomicity_curves
from t2ibench.reporting.statistics.groups import Group, GroupScore
from t2ibench.reporting.statistics.metrics import metric_of
from t2ibench.reporting.statistics.pareto import ParetoFront

SCHEMA = 3


def to_json(content: Content) -> str:
    """Indented JSON with the keys in a fixed order."""
    return json.dumps(document(content), indent=2, ensure_ascii=False) + "\n"


def document(content: Content) -> dict[str, Any]:
    """Models, pairs, ranks and fronts as JSON-ready values; every digit kept."""
    analysis = content.analysis
    leaderboard = analysis.leaderboard
    return {
        "schema": SCHEMA,
        "facts": leaderboard.facts,
        "by": leaderboard.by,
        "columns": [
            {
                "key": key,
                "metric": metric_of(key).name,
                "better": metric_of(key).better,
                "leaders": sorted(analysis.leaders[key]),
            }
            for key in leaderboard.keys
        ],
        "models": [_model(group, content) for group in leaderboard.groups],
        "references": [
            {
                "label": row.label,
                "meaning": row.meaning,
                "scores": {k: _score(s) for k, s in row.scores.items()},
            }
            for row in leaderboard.references
        ],
        "correction": content.correction,
        "pairs": [_pair(pair) for pair in analysis.pairs],
        "rank_probabilities": [
            {
                "key": ranking.key,
                "basis": ranking.basis,
                "models": {label: list(p) for label, p in ranking.probabilities.items()},
            }
            for ranking in analysis.rankings
        ],
        "knob_choices": list(content.choices),
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
            for front in analysis.knob_fronts
        ],
        "pareto_fronts": [_pareto_front(front) for front in analysis.pareto_fronts],
        "in_no_row": [_missing(run) for run in leaderboard.unplaced],
        "cautions": list(content.cautions),
    }


def _model(group: Group, content: Content) -> dict[str, Any]:
    return {
        "label": group.label,
        "family": group.family,
        "origin": group.origin or None,
        "given": list(group.given),
        "runs": [str(run.path) for run in group.runs],
        "seeds": [run.scores.model["seed"] for run in group.runs],
        "section": group.fact(by) if (by := content.analysis.leaderboard.by) else "",
        "planned_seeds": group.planned,
        "missing": [_missing(run) for run in group.missing],
        "atomicity": {
            key: [{"objects": p.objects, "n": p.n} | _score(p.score) for p in points]
            for key, points in atomicity_curves(group).items()
        },
        "scores": {
            key: _score(score) | {"by_seed": group.seed_values(key).tolist()}
            for key in content.analysis.leaderboard.all_keys
            if (score := group.score(key)) is not None
        },
        "absent": {
            name: reason for reason, (names, _) in absences(group).items() for name in names
        },
        "cost": _values(content.costs, group.label),
    }


def _values(table: Table, label: str) -> dict[str, Any]:
    """Column name -> value of the row of a label."""
    return next(table.values(row) for row in table.rows if row.label == label)


def _pair(pair: Comparison) -> dict[str, Any]:
    return {
        "first": pair.first,
        "second": pair.second,
        "caveat": pair.caveat,
        "tests": [
            {
                "key": difference.key,
                "first": difference.first,
                "second": difference.second,
                "difference": difference.difference,
                "ci_low": difference.low,
                "ci_high": difference.high,
                "p_value": difference.p_value,
                "p_holm": difference.adjusted,
                "test": difference.method,
                "distinguishable": difference.distinguishable,
                "verdict": difference.verdict(pair.first, pair.second),
            }
            for difference in pair.differences
        ],
        "configuration": [
            {"key": key, "first": first, "second": second}
            for key, first, second in pair.configuration
        ],
    }


def _pareto_front(front: ParetoFront) -> dict[str, Any]:
    points = [
        {
            "model": point.label,
            "cost": point.cost,
            "value": point.value,
            "on_front": point.on_front,
            "dominated_by": list(point.dominated_by),
            "distinguishably": point.distinguishably,
        }
        for point in front.points
    ]
    return {"cost": front.cost, "key": front.key, "points": points}


def _missing(run: MissingRun) -> dict[str, Any]:
    return {"run": run.name, "seed": run.seed, "state": run.state, "reason": run.reason}


def _score(score: GroupScore) -> dict[str, Any]:
    return {
        "value": score.value,
        "ci_low": score.low,
        "ci_high": score.high,
        "sd": score.sd,
        "seeds": score.seeds,
        "basis": score.basis,
        "note": score.note,
    }
