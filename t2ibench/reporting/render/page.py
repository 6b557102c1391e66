"""One self-contained HTML page: no scripts, no requests, light and dark."""

from __future__ import annotations

from importlib.resources import files
from string import Template

from t2ibench import __version__
from t2ibench.reporting.render import html
from t2ibench.reporting.render.charts import (
    atomicity_charts,
    colour_of,
    cost_charts,
    curve_charts,
    front_charts,
    size_charts,
)
from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.findings import findings
from t2ibench.reporting.render.numbers import flops_text, seconds_text
from t2ibench.reporting.render.sheets import comparison_sheet, contact_sheets, sample_sets
from t2ibench.reporting.statistics.leaderboard import Leaderboard

CONTACT_SAMPLES = 48


def render_page(content: Content, title: str) -> str:
    """The page's HTML."""
    leaderboard = content.analysis.leaderboard
    here = files("t2ibench.reporting.render")
    template = Template((here / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(title),
        style=(here / "page.css").read_text(encoding="utf-8"),
        facts=html.definition_list(_facts(leaderboard)),
        sections="\n".join(_sections(content)),
        version=__version__,
        count=sum(group.seeds for group in leaderboard.groups),
    )


def _sections(content: Content) -> list[str]:
    """The page from top to bottom."""
    leaderboard = content.analysis.leaderboard
    several = len(leaderboard.groups) > 1
    legend = html.legend(colour_of(leaderboard)) if several else ""
    fronts, costs = front_charts(leaderboard), cost_charts(leaderboard)
    replicated = any(group.seeds > 1 for group in leaderboard.groups)
    atomicity, sets = atomicity_charts(leaderboard), sample_sets(leaderboard)
    return [
        html.section("In short", "", html.findings(findings(content.analysis))),
        html.section(
            "Leaderboard",
            "",
            html.warnings(content.warnings),
            html.table(content.scores, "scores"),
            html.warnings(content.absent),
            f'<p class="below">{html.escape(_explained(content))}</p>',
        ),
        html.section(
            "Same prompts, same seeds",
            "The protocol's first prompts in the order of a hash: chosen by rule, not by taste."
            + (" Of several trainings of a model the first seed's." if replicated else ""),
            html.sheet(comparison_sheet(sets)),
            html.contact(contact_sheets(sets, CONTACT_SAMPLES), CONTACT_SAMPLES),
        ),
        html.section(
            "Quality against alignment",
            "Each line is one model as its knob is turned, the mean of its training seeds; numbers "
            "at the ends are the knob's values. On validation prompts, where the large marker was "
            "chosen for the tables.",
            legend if fronts else "",
            html.charts(fronts),
            html.sentences(content.choices) if fronts else "",
            html.titled(content.knob_fronts) if several else "",
        ),
        html.section(
            "Everything right, by number of objects",
            "Share of images in which the grader finds every object, attribute and relation of "
            "the prompt. Bars: 95% intervals, over training seeds where a model has several, else "
            "over prompts.",
            legend if atomicity else "",
            html.charts(atomicity),
        ),
        html.section(
            "Cost",
            "Measured after a warm-up, text encoding and decoding included; training counts the "
            "first stage. One multiply-accumulate is two FLOPs.",
            html.table(content.costs, "costs"),
            html.sentences(content.costs.notes),
            html.warnings(content.cost_notes),
            html.titled(content.pareto),
            html.charts(costs),
        ),
        html.section(
            "Distance by number of images",
            "Means over random subsets, and over training seeds, with the standard deviation over "
            "subsets. A finite set's distance is "
            "too high by an amount that differs between models; the further left, the less.",
            html.charts(size_charts(leaderboard)),
        ),
        html.section(
            "Learning curves",
            "Losses of different families measure different things: compare shapes, not heights.",
            html.charts(curve_charts(leaderboard)),
        ),
        html.section(
            "Which differences hold",
            f"Every pair of models. {content.correction}" if content.pairs else "",
            html.titled(content.ranks),
            *map(html.pair, content.pairs),
        ),
        html.section(
            "How to read the columns",
            "A score is inseparable from how it was measured. Below each metric stands its key: "
            "metric, network and width, preprocessing, weights, reference or prompts, and number "
            "of images. Scores with different keys never share a column.",
            html.keys(content.scores),
            html.warnings(content.measurement_notes),
        ),
    ]


def _facts(leaderboard: Leaderboard) -> dict[str, str]:
    """What all runs share, in words."""
    facts = leaderboard.facts
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


def _explained(content: Content) -> str:
    """The caption, and what the grey rows are."""
    meanings = {row.label: row.meaning for row in content.scores.rows if row.reference}
    rows = " ".join(f"{label}: {meaning}" for label, meaning in meanings.items())
    return f"{content.caption()} {rows}"
