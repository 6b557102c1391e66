"""One self-contained HTML page over runs: no scripts, no requests, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from t2ibench import __version__
from t2ibench.core.files import atomic_path
from t2ibench.report import fragments
from t2ibench.report.analysis import Analysis, analyse, hole_sentences, score_notes
from t2ibench.report.columns import flops_text, metric_of, seconds_text
from t2ibench.report.compare import Comparison
from t2ibench.report.formats import AREA, BEST, PARETO, caption
from t2ibench.report.holes import gather
from t2ibench.report.keys import split_sentences
from t2ibench.report.pareto import pareto_table
from t2ibench.report.plots import (
    colour_of,
    cost_charts,
    curve_charts,
    front_charts,
    size_charts,
)
from t2ibench.report.ranking import (
    best_table,
    front_sentences,
    front_table,
)
from t2ibench.report.sheets import comparison_sheet, contact_sheets
from t2ibench.report.tables import Leaderboard, leaderboard

CONTACT_SAMPLES = 48


def write_page(
    paths: Iterable[str | Path], target: str | Path, title: str = "t2ibench report"
) -> Path:
    """Reads run folders and writes the page atomically.

    Args:
        paths: run folders, or folders of run folders.
        target: the HTML file.
        title: its heading.

    Returns:
        The file.

    Raises:
        RunError: a folder without scores, or with unreadable ones.
    """
    target = Path(target)
    with atomic_path(target) as aside:
        found = analyse(leaderboard(*gather(paths)))
        aside.write_text(render_page(found, title), encoding="utf-8")
    return target


def render_page(found: Analysis, title: str = "t2ibench report") -> str:
    """The page's HTML."""
    board = found.board
    here = files("t2ibench.report")
    template = Template((here / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=fragments.escape(title),
        style=(here / "page.css").read_text(encoding="utf-8"),
        facts=fragments.definition_list(_facts(board)),
        sections="\n".join(_sections(found)),
        version=__version__,
        count=sum(group.seeds for group in board.groups),
    )


def _sections(found: Analysis) -> list[str]:
    """The page from top to bottom."""
    board, comparisons = found.board, found.pairs
    several = len(board.groups) > 1
    key = fragments.legend(colour_of(board)) if several else ""
    fronts, costs = front_charts(board), cost_charts(board)
    sizes = size_charts(board)
    summaries = found.fronts
    return [
        fragments.section("In short", "", fragments.findings(findings(board, comparisons))),
        fragments.section(
            "Leaderboard",
            "",
            fragments.warnings([*_leaks(board), *hole_sentences(board)]),
            fragments.score_table(found),
            f'<p class="below">{fragments.escape(_explained(found))}</p>',
        ),
        fragments.section(
            "Same prompts, same seeds",
            "The protocol's first prompts in the order of a hash: chosen by rule, not by taste.",
            fragments.sheet(comparison_sheet(board)),
            fragments.contact(contact_sheets(board, CONTACT_SAMPLES), CONTACT_SAMPLES),
        ),
        fragments.section(
            "Quality against alignment",
            "Each line is one model as its knob is turned; numbers at the ends are the knob's "
            "values. On validation prompts, where the large marker was chosen for the tables.",
            key if fronts else "",
            fragments.charts(fronts),
            fragments.plain_table(AREA, front_table(summaries)) if several else "",
            fragments.sentences(front_sentences(summaries)),
        ),
        fragments.section(
            "Cost",
            "Measured after a warm-up, text encoding and decoding included; training counts the "
            "first stage. One multiply-accumulate is two FLOPs.",
            fragments.cost_table(board),
            fragments.plain_table(PARETO, pareto_table(found.pareto, board)),
            '<div style="height:16px"></div>' if costs else "",
            fragments.charts(costs),
        ),
        *(
            [
                fragments.section(
                    "Distance by number of images",
                    "Means over random subsets, with their standard deviation. A finite set's "
                    "distance is too high by an amount that differs between models; the further "
                    "left, the less.",
                    fragments.charts(sizes),
                )
            ]
            if sizes
            else []
        ),
        fragments.section(
            "Learning curves",
            "Losses of different families measure different things: compare shapes, not heights.",
            fragments.charts(curve_charts(board)),
        ),
        fragments.section(
            "Which differences hold",
            f"Every pair of models. {found.family}" if found.pairs else "",
            fragments.plain_table(BEST, best_table(found.rankings, board)),
            *[fragments.comparison(pair) for pair in comparisons],
        ),
        fragments.section(
            "How to read the columns",
            "A score is inseparable from how it was measured. Below each metric stands its key: "
            "metric, network and width, preprocessing, weights, reference or prompts, and number "
            "of images. Scores with different keys never share a column.",
            fragments.key_list(board),
            fragments.warnings([*split_sentences(board.groups), *score_notes(board)]),
        ),
    ]


def findings(board: Leaderboard, comparisons: Sequence[Comparison]) -> list[tuple[str, str, str]]:
    """(question, leader, how sure) for the main distance, alignment and speed."""
    if len(board.groups) < 2:
        return []
    found = []
    wanted = (
        ("Nearest to real images", ("fid", "fd", "kid")),
        ("Everything in the prompt right", ("grader_exact",)),
        ("Best CLIP-score", ("clip_score",)),
    )
    for question, names in wanted:
        keys = [c.key for name in names for c in board.columns if c.metric.name == name]
        if keys:
            found.extend(_leader(question, keys[0], board, comparisons))
    timed = {g.label: t for g in board.groups if (t := g.cost("seconds_per_image_best"))}
    if len(timed) > 1:
        first, second = sorted(timed, key=lambda label: timed[label])[:2]
        said = (
            f"{seconds_text(timed[first])} an image; {second} takes "
            f"{timed[second] / timed[first]:.1f} times as long."
        )
        found.append(("Fastest to sample", first, said))
    return found


def _leader(
    question: str, key: str, board: Leaderboard, comparisons: Sequence[Comparison]
) -> list[tuple[str, str, str]]:
    metric = metric_of(key)
    cells = {g.label: cell for g in board.groups if (cell := g.cell(key)) is not None}
    if len(cells) < 2:
        return []
    sign = 1 if metric.better == "higher" else -1
    best = max(cells, key=lambda label: sign * cells[label].value)
    tied = [
        (pair.second if pair.first == best else pair.first)
        for pair in comparisons
        if best in (pair.first, pair.second)
        for difference in pair.differences
        if difference.key == key and not difference.distinguishable
    ]
    said = f"{metric.title} {metric.text(cells[best].value)}; "
    if tied:
        return [(question, best, f"{said}not distinguishable from {' and '.join(tied)}.")]
    second = max((la for la in cells if la != best), key=lambda la: sign * cells[la].value)
    said += f"ahead of {second} with {metric.text(cells[second].value)}."
    return [(question, best, said)]


def _facts(board: Leaderboard) -> dict[str, str]:
    """What all runs share, in words."""
    facts = board.facts
    shown: dict[str, str] = {}
    if "data" in facts:
        shown["Data"] = str(facts["data"])
    if "text" in facts:
        shown["Text encoder"] = str(facts["text"])
    if protocol := facts.get("protocol"):
        split, count = protocol.get("split", "?"), protocol.get("num_images", "?")
        shown["Protocol"] = f"{protocol.get('name', '?')}: {count} images on {split} prompts"
    if budget := facts.get("budget"):
        shown["Budget a model"] = _budget(budget)
    if "hardware" in facts:
        shown["Timed on"] = str(facts["hardware"])
    return shown


def _budget(budget: dict[str, object]) -> str:
    unit, amount = str(budget.get("unit", "")), budget.get("amount")
    if not isinstance(amount, (int, float)):
        return unit
    if unit == "flops":
        return f"{flops_text(float(amount))} FLOPs"
    return seconds_text(float(amount)) if unit == "seconds" else f"{amount:,.0f} {unit}"


def _explained(found: Analysis) -> str:
    """The caption, and what the grey rows are."""
    board = found.board
    meanings = {
        reference.label.split(" of ")[0]: reference.meaning for reference in board.references
    }
    rows = " ".join(f"{label}: {meaning}" for label, meaning in meanings.items())
    return f"{caption(found)} {rows}"


def _leaks(board: Leaderboard) -> list[str]:
    """One sentence a leak: those scores flatter that model."""
    said = []
    for group in board.groups:
        for leak in group.runs[0].scores.leakage:
            said.append(
                f"{group.label}: its {leak.get('part')} shares {leak.get('shared_tensors')} weight "
                f"tensors with {leak.get('instrument')}, so that network's scores flatter it and "
                "prove nothing."
            )
    return said
