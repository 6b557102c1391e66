from run_folders import write_run

from t2ibench.core.files import read_json, write_json
from t2ibench.reporting import (
    analyse,
    gather,
    terminal_text,
    verdict_text,
    write_page,
    write_results,
)
from t2ibench.reporting.render.findings import findings


def test_cards_name_what_a_model_was_given(tmp_path):
    own = {"origin": "own", "given": ["word labels"]}
    runs = [
        write_run(tmp_path, "diffusion/ldm", 0, model=own),
        write_run(tmp_path, "gan/gan_int_cls", 0),
        write_run(tmp_path, "autoregressive/vqgan_gpt", 0, model=own | {"given": ["an extra"]}),
    ]
    found = analyse(*gather(runs))
    cards = {card.question: card for card in findings(found)}
    nearest, fastest = cards["Nearest to real images"], cards["Fastest to sample"]
    assert (nearest.leader, nearest.given) == ("ldm", "word labels")
    assert "ahead of vqgan_gpt (given an extra) with" in nearest.sentence
    assert nearest.sentence.endswith(
        "Of those given captions and images alone: gan_int_cls, 87.5."
    ), nearest.sentence
    assert (fastest.leader, fastest.given) == ("gan_int_cls", "")
    assert "ldm (given word labels) takes" in fastest.sentence
    page = write_page(found, tmp_path / "page.html").read_text("utf-8")
    assert '<span class="best">ldm</span><span class="given">given word labels</span>' in page
    assert '<span class="best">gan_int_cls</span><span class="why">' in page


def test_a_lead_that_does_not_hold_is_said(analysis):
    cards = {card.question: card for card in findings(analysis)}
    exact = cards["Everything in the prompt right"]
    assert exact.leader == "ldm" and "not distinguishable from vqgan_gpt" in exact.sentence


def test_one_model_leads_nobody(tmp_path):
    assert findings(analyse(*gather([write_run(tmp_path, "diffusion/ldm", 0)]))) == []


def test_extra_supervision_is_said_wherever_models_are_ranked(tmp_path):
    """Above the tables of every format, and with each pair; not where all were given the same."""
    own = {"origin": "own", "given": ["word labels"]}
    runs = [
        write_run(tmp_path, "diffusion/ldm", 0, model=own),
        write_run(tmp_path, "gan/gan_int_cls", 0),
    ]
    found = analyse(*gather(runs))
    said = "ldm was given word labels beyond captions and images"
    assert found.pairs[0].caveat.count(said) == 1
    files = write_results(found, tmp_path / "out", "t")
    texts = {file.name: file.read_text("utf-8") for file in files if file.suffix != ".pdf"}
    for name in ("leaderboard.md", "leaderboard.tex", "leaderboard.json", "leaderboard.html"):
        assert f"{said}, which not every model here was" in texts[name], name
    shown = " ".join(terminal_text(found, 100).split()), " ".join(verdict_text(found, 100).split())
    assert all(said in text for text in shown)
    for run in runs:
        scores = read_json(run / "scores.json")
        scores["model"] |= own
        write_json(run / "scores.json", scores)
    assert "beyond captions and images:" not in terminal_text(analyse(*gather(runs)), 100)
