"""What must be said beside the tables, the same in every format."""

from __future__ import annotations

from t2ibench.reporting.render.table import Table
from t2ibench.reporting.statistics.analysis import Analysis
from t2ibench.reporting.statistics.differences import SIGNIFICANCE, WELCH
from t2ibench.reporting.statistics.groups import Group, seeds_text
from t2ibench.reporting.statistics.leaderboard import Leaderboard
from t2ibench.reporting.statistics.metrics import instrument_of, metric_of


def caption(analysis: Analysis, scores: Table, lead: str = "Bold") -> str:
    """What the intervals and the marked scores mean.

    Args:
        analysis: the comparison.
        scores: its leaderboard.
        lead: how leading scores are marked.
    """
    basis = {
        cell.basis
        for row in scores.printed.rows
        for cell in row.cells
        if cell.basis and not row.reference
    }
    intervals = "±: half the 95% interval"
    if basis == {"training seeds"}:
        intervals += " over training seeds (Student's t), sd: their standard deviation"
    elif basis == {"samples"}:
        intervals += " over samples of one training seed; it does not cover another training"
    else:
        intervals += (
            " over training seeds (sd: their standard deviation), or over samples where a row has "
            "1 seed"
        )
    marked = f"{lead}: the best and those not distinguishable from it." if analysis.pairs else ""
    columns = " ".join(
        f"{column.title}: {column.meaning}"
        for column in scores.columns
        if column.kind == "model" and column.meaning
    )
    parts = (f"{intervals}.", marked, correction_sentence(analysis), columns)
    return " ".join(part for part in parts if part)


def correction_sentence(analysis: Analysis) -> str:
    """Over which tests p-values are corrected, and what that means; empty without a pair."""
    keys = {difference.key for pair in analysis.pairs for difference in pair.differences}
    tests = sum(len(pair.differences) for pair in analysis.pairs)
    if not tests:
        return ""
    welch = any(d.method == WELCH for pair in analysis.pairs for d in pair.differences)
    limits = (
        ", as far as Welch's t over training seeds keeps its level, which it exceeds where one "
        "model's seeds spread many times as much as the other's"
    )
    return (
        f"p-values are Holm's over all {tests} tests of this comparison ({len(analysis.pairs)} "
        f"pair{'s' if len(analysis.pairs) != 1 else ''}, {len(keys)} score"
        f'{"s" if len(keys) != 1 else ""}): the chance that any of its "is better" is wrong is '
        f"at most {SIGNIFICANCE:.0%}{limits if welch else ''}."
    )


def missing_sentences(leaderboard: Leaderboard) -> list[str]:
    """What is missing, a sentence a row; its mean is over the seeds that are there."""
    sentences = []
    for group in leaderboard.groups:
        if group.seeds < group.planned:
            reasons = [run.sentence for run in group.missing]
            if group.seeds + len(reasons) < group.planned:
                reasons.append("other rows have more")
            sentences.append(f"{group.label} has {group.seeds_text}: {'; '.join(reasons)}.")
    sentences += [
        f"{run.model} ({run.name}) is in no row: {run.sentence}." for run in leaderboard.unplaced
    ]
    return sentences


def key_sentences(leaderboard: Leaderboard) -> list[str]:
    """What stands in several columns because it was measured in several ways."""
    ways: dict[tuple[str, str], dict[str, list[str]]] = {}
    for group in leaderboard.groups:
        for key in group.scores:
            instrument = (metric_of(key).title, instrument_of(key))
            ways.setdefault(instrument, {}).setdefault(key, []).append(group.label)
    return [
        f"{title} in {instrument} was measured in {len(keys)} ways that are not compared: "
        + "; ".join(f"{key} ({', '.join(labels)})" for key, labels in keys.items())
        + "."
        for (title, instrument), keys in ways.items()
        if len(keys) > 1 and min(len(labels) for labels in keys.values()) < len(leaderboard.groups)
    ]


def absent_sentences(leaderboard: Leaderboard) -> list[str]:
    """Scores that could not be computed, once for each reason, with what would bring them."""
    names: dict[str, list[str]] = {}
    rows: dict[str, list[str]] = {}
    for group in leaderboard.groups:
        for reason, (scores, runs) in absences(group).items():
            names.setdefault(reason, []).extend(scores)
            part = f" ({seeds_text(runs, group.seeds)})" if runs < group.seeds else ""
            rows.setdefault(reason, []).append(f"{group.label}{part}")
    return [
        f"{', '.join(metric_of(name).title for name in dict.fromkeys(names[reason]))} not measured "
        f"of {', '.join(rows[reason])}: {reason.rstrip('.')}."
        for reason in names
    ]


def absences(group: Group) -> dict[str, tuple[list[str], int]]:
    """Reason -> scores that a row lacks for it, and in how many of its runs."""
    found: dict[str, tuple[list[str], int]] = {}
    for run in group.runs:
        by_reason: dict[str, list[str]] = {}
        for scores, reason in run.scores.absent.items():
            by_reason.setdefault(reason, []).extend(name.strip() for name in scores.split(","))
        for reason, names in by_reason.items():
            known, runs = found.get(reason, ([], 0))
            found[reason] = (list(dict.fromkeys([*known, *names])), runs + 1)
    return found


def note_sentences(table: Table) -> list[str]:
    """Warnings that belong to cells, with the cells: underdetermined distances, busy machines."""
    notes: dict[str, list[str]] = {}
    table = table.printed
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if cell.note:
                instrument = f" ({column.instrument})" if column.instrument else ""
                where = f"{column.title}{instrument}, {row.label}"
                notes.setdefault(cell.note, []).append(where)
    return [f"{note}: {'; '.join(where)}." for note, where in notes.items()]


def choice_sentences(leaderboard: Leaderboard) -> list[str]:
    """Why each model's knob has its value, a sentence a run that chose it."""
    sentences = []
    for group in leaderboard.groups:
        for run in group.runs:
            if reason := run.scores.knob.get("reason"):
                seed = f", seed {run.seed}" if group.seeds > 1 else ""
                sentences.append(f"{group.label}{seed}: {reason}.")
    return sentences


def leak_sentences(leaderboard: Leaderboard) -> list[str]:
    """One sentence a leak of any run: those scores flatter that model."""
    said = [
        f"{group.label}: its {leak.get('part')} shares {leak.get('shared_tensors')} weight "
        f"tensors with {leak.get('instrument')}, so that network's scores flatter it and "
        "prove nothing."
        for group in leaderboard.groups
        for run in group.runs
        for leak in run.scores.leakage
    ]
    return list(dict.fromkeys(said))


def given_sentences(leaderboard: Leaderboard) -> list[str]:
    """Which models learned from more than others did, a sentence each; none where all are equal."""
    if len({frozenset(group.given) for group in leaderboard.groups}) < 2:
        return []
    return [
        f"{group.label} was given {', '.join(group.given)} beyond captions and images, which not "
        "every model here was: where it leads, that may be why."
        for group in leaderboard.groups
        if group.given
    ]


def repeat_sentences(leaderboard: Leaderboard) -> list[str]:
    """Which rows repeat seeds of another: two runs of one seed are not two trainings."""
    rows: dict[str, list[str]] = {}
    for group in leaderboard.groups:
        rows.setdefault(group.runs[0].group_key, []).append(group.label)
    return [
        f"{' and '.join(labels)} hold runs of one model and seed, which are not two trainings: "
        "they are not averaged."
        for labels in rows.values()
        if len(labels) > 1
    ]
