import html
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from run_folders import rewritten, write_run

from t2ibench.reporting import analyse, gather, write_page

MEASURE = """
<script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, root = page.documentElement;
  const named = (e) => `${e.tagName} ${e.className}: ${e.textContent.slice(0, 60)}`;
  page.querySelectorAll("details").forEach((d) => (d.open = true));
  const broken = [...page.images].filter((i) => !i.naturalWidth).length;
  const squashed = [...page.querySelectorAll(".row img")].filter(
    (i) => Math.abs(i.clientWidth - i.clientHeight) > 1).length;
  const outside = [...page.querySelectorAll("body *")].filter((e) =>
    !e.parentElement.closest(".scroll") && !e.closest("svg") &&
    e.getBoundingClientRect().right > root.clientWidth + 1).map(named);
  const text = page.querySelectorAll("th, td, li, p, dd, figcaption, summary");
  const spilled = [...text].filter((e) => e.scrollWidth > e.clientWidth + 1).map(named);
  const wide = [...page.querySelectorAll(".scroll")].filter(
    (e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.getAttribute("aria-label"));
  document.title = "measured";
  document.body.dataset.found = JSON.stringify({
    scroll: root.scrollWidth, client: root.clientWidth, broken, squashed, outside, spilled, wide,
    requests: frame.contentWindow.performance.getEntriesByType("resource").length,
    headings: page.querySelectorAll("h2").length, charts: page.querySelectorAll("svg.chart").length,
  });
});
</script>
"""


@pytest.fixture(scope="module")
def page(analysis, tmp_path_factory):
    return write_page(analysis, tmp_path_factory.mktemp("page") / "report.html", "Three families")


def page_of(run, target, title="title"):
    return write_page(analyse(*gather([run])), target, title).read_text("utf-8")


class Outline(HTMLParser):
    """Checks nesting and collects what matters for readers and readers' machines."""

    VOID = {"meta", "link", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.links, self.images, self.ids, self.anchors = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        fields = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [fields[a] for a in ("src", "href", "action", "data") if fields.get(a)]
        self.ids += [fields["id"]] if "id" in fields else []
        self.images += [fields] if tag == "img" else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def test_the_page_is_one_accessible_file_without_requests(page):
    text = page.read_text("utf-8")
    outline = Outline()
    outline.feed(text)
    assert outline.open == []
    anchors = [link for link in outline.links if link.startswith("#")]
    assert all(link.startswith(("data:", "#")) for link in outline.links)
    assert {a[1:] for a in anchors} <= set(outline.ids)
    assert outline.images and all(i["alt"] and i["width"] for i in outline.images if "width" in i)
    assert all(image.get("alt") for image in outline.images)
    assert "<script" not in text and "@import" not in text and "url(" not in text
    assert re.search(r"https?://", text) is None
    assert page.stat().st_size < 2_000_000
    assert "$" not in re.sub(r"data:[^\"]*", "", text), "a placeholder was left"


def test_the_page_says_what_was_found(page):
    text = page.read_text("utf-8")
    for words in (
        "Three families",
        "not distinguishable",
        "Real vs real",
        "First stage of ldm",
        "underdetermined",
        "3 seeds",
        "8.00e12 FLOPs",
        "What differs in their configurations",
        "model.training.batch_size",
        "fd[efficientnet-lite0-in1k@1280|bicubic-64|aa11bb22|shapes/test:9f8e7d6c|96]",
    ):
        assert words in text, words


def test_the_page_is_the_same_for_the_same_runs(page, study, tmp_path):
    again = write_page(analyse(*gather(study)), tmp_path / "again.html", "Three families")
    assert again.read_bytes() == page.read_bytes()


def test_foreign_text_is_escaped(tmp_path):
    run = write_run(tmp_path, "diffusion/ldm", 0, model={"name": "<b>bold", "data": "a&b"})
    text = page_of(run, tmp_path / "page.html", "<i>title</i>")
    assert "<b>bold" not in text and "<i>title" not in text and "a&amp;b" in text


def test_why_a_knob_has_its_value_is_shown_with_its_front(tmp_path):
    run = write_run(tmp_path, "diffusion/ldm", 0)
    reason = "lowest kid (0.012) at guidance_scale=3"
    text = page_of(
        rewritten(run, lambda scores: scores["knob"].update(reason=reason)), tmp_path / "page.html"
    )
    assert f"<li>ldm: {reason}.</li>" in text


def test_leaks_are_shown_first(tmp_path):
    leak = {"part": "text_encoder", "instrument": "shapes-clip-v1@128|area-32", "shared_tensors": 9}
    run = write_run(tmp_path, "diffusion/ldm", 0, leakage=(leak,))
    text = page_of(run, tmp_path / "page.html")
    assert "its text_encoder shares 9 weight tensors with shapes-clip-v1" in text


def test_a_run_without_samples_front_or_curves_still_reports(tmp_path):
    run = write_run(tmp_path, "gan/gan_int_cls", 0)
    shutil.rmtree(run / "samples")
    for name in ("metrics.csv", "manifest.json"):
        (run / name).unlink()
    text = page_of(run, tmp_path / "page.html")
    assert "Leaderboard" in text and "Same prompts" not in text


def browser():
    found = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if found is None:
        assert not os.environ.get("CI"), "CI must have chromium: apt-get install chromium"
    return found


def measured(page, tmp_path, width):
    """What a browser finds in a window of a width; None where there is no browser."""
    chromium = browser()
    if chromium is None:
        return None
    source = html.escape(page.read_text("utf-8"), quote=True)
    wrapper = tmp_path / "wrapper.html"
    frame = f'<iframe style="border:0;width:{width}px;height:900px" srcdoc="{source}"></iframe>'
    wrapper.write_text(
        f'<!doctype html><meta charset="utf-8"><body style="margin:0">{frame}{MEASURE}'
    )
    answer = subprocess.run(
        [
            chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--no-first-run", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={max(width, 500)},900",
            "--virtual-time-budget=8000", "--dump-dom", wrapper.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'data-found="([^"]*)"', answer.stdout)
    assert found, answer.stderr[-2000:]
    console = [line for line in answer.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found.group(1))) | {"console": console}


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_overflow_errors_or_requests(page, tmp_path, width):
    found = measured(page, tmp_path, width)
    if found is None:
        return
    assert found["scroll"] <= found["client"], found
    assert found["client"] in range(width - 20, width + 1)
    assert found["broken"] == found["squashed"] == 0 and found["outside"] == [], found
    assert found["requests"] == 0 and found["headings"] == 8 and found["charts"] == 10
    assert found["console"] == [] and found["spilled"] == [], found
    assert width < 1280 or found["wide"] == [], found


@pytest.mark.parametrize("width", [390, 1280])
def test_long_names_stay_in_their_cards_and_cells(tmp_path, width):
    """Settings, extras and folders of any length break; a desktop shows whole tables."""
    given = ["word labels", "pretrained text encoder openai/clip-vit-large-patch14"]
    long = {"conditioning": "a_long_value_of_a_setting", "size": "xs_narrow", "given": given}
    theirs = {"name": "somebody_elses_images_of_a_long_name/images", "family": "external"}
    runs = [
        write_run(tmp_path, "diffusion/ldm", 0),
        write_run(tmp_path, "gan/gan_int_cls", 0),
        write_run(tmp_path, "gan/gan_int_cls", 1, model=long | {"origin": "own"}),
        write_run(tmp_path, "gan/gan_int_cls", 7, model=theirs),
    ]
    page = write_page(analyse(*gather(runs), by="conditioning"), tmp_path / "page.html", "long")
    found = measured(page, tmp_path, width)
    if found is None:
        return
    assert found["scroll"] <= found["client"], found
    assert found["outside"] == found["spilled"] == [], found
    assert width < 1280 or found["wide"] == [], found
