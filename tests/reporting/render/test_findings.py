from run_folders import write_run

from t2ibench.reporting import analyse, gather, write_page
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
