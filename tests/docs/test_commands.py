"""Every command that a document, a configuration's header or a help text prints can be typed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from t2ibench.cli import main
from t2ibench.cli.arguments import END, OPTION
from t2ibench.cli.compose import compose_spec
from t2ibench.cli.grid import read_grid, without_params
from t2ibench.cli.verbs import compare, evaluator, export, import_, report, sample, score, status
from t2ibench.engine.build import check_parts
from t2ibench.engine.plugins import plugins

ROOT = Path(__file__).parents[2]
PROMPT = re.compile(r"^(?:#\s*)?(?:Command|Smaller)?:?\s*(?:T2IBENCH_\w+=\S+ )?t2ibench ")
FURTHER = re.compile(r"^#?\s{6,}[^\s(]")
PLACEHOLDERS = {"PICTURES": "pictures", "FOLDER": "folder", "FILE": "file.png", "NAME": "name"}
NO_WORDS = {"…", "...", "->"}


def documents():
    yield ROOT / "README.md"
    yield ROOT / "CONTRIBUTING.md"
    for folder in ("experiments", "t2ibench", "examples", "benchmarks"):
        yield from sorted((ROOT / folder).rglob("*.md"))
    yield from sorted((ROOT / "conf").rglob("*.yaml"))
    yield from sorted((ROOT / "t2ibench" / "cli").rglob("*.py"))


def commands(text):
    """Commands of a document, continued lines joined, comments and output cut."""
    lines, found = text.splitlines(), []
    for number, line in enumerate(lines):
        whole = line.strip()
        inline = re.findall(r"`(t2ibench [a-z]+[^`]*)`", line)
        starts = bool(PROMPT.match(whole)) or whole.startswith("t2ibench ")
        found += [(number + 1, command) for command in inline if not starts]
        if not starts:
            continue
        command, at = whole[whole.index("t2ibench ") :], number
        while command.endswith("\\") or (
            at + 1 < len(lines)
            and FURTHER.match(lines[at + 1])
            and "t2ibench" not in lines[at + 1]
            and "=" in lines[at + 1]
            and line.lstrip().startswith(("#", "t2ibench"))
            and "   (" not in command
        ):
            at += 1
            command = f"{command.rstrip(chr(92)).rstrip()} {lines[at].strip().lstrip('#').strip()}"
        found.append((number + 1, command))
    return found


def words_of(command):
    """The words of a command: placeholders filled, remarks after it cut."""
    command = command.split(" && ")[-1] if "t2ibench" in command.split(" && ")[-1] else command
    command = re.split(r"\s{2,}(?!\S*=)|\s{3,}|  # | #|   \(", command)[0]
    try:
        words = shlex.split(command.replace("`", ""), comments=True)
    except ValueError:  # prose that ends in the middle of a quotation
        return None
    kept = [w for w in words[1:] if w not in NO_WORDS and not w.startswith(("(", "…"))]
    for placeholder, value in PLACEHOLDERS.items():
        kept = [re.sub(rf"\b{placeholder}\b", value, word) for word in kept]
    return [word.rstrip(",;.") if "=" not in word else word.rstrip(",;") for word in kept]


def every_command():
    for path in documents():
        for line, command in commands(path.read_text(encoding="utf-8")):
            words = words_of(command)
            if words:
                yield pytest.param(words, id=f"{path.relative_to(ROOT)}:{line}")


COMPOSED = ("train", "demo", "info", "bench")
OPTIONS = {
    "compare": compare.OPTIONS,
    "status": {"runs": "", "json": ""},
    "report": report.OPTIONS,
    "export": {"out": "", "format": ""},
    "sample": sample.DEFAULTS | dict.fromkeys(sample.EDIT_OPTIONS, ""),
    "evaluator": evaluator.DEFAULTS,
}
assert set(export.FORMATS) == {"diffusers", "safetensors"} and status.COLOURS
FLAGS = {"--dry-run", "-m", "--json", "--cfg", "job", "--help", "--protocols", "--wandb", "--info"}


def compose(words, tmp_path):
    """Composes and checks all cells of a command."""
    (tmp_path / "pictures").mkdir(exist_ok=True)
    given = [w.replace("=pictures", f"={tmp_path}/pictures") for w in words]
    grid = read_grid([without_params(word) for word in given])
    for cell in grid.cells or [grid.fixed]:
        check_parts(compose_spec(cell))


@pytest.fixture(scope="module")
def example_package(tmp_path_factory):
    """The worked example as pip installs it: documents name its model."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    place = ROOT / "examples" / "colour_field"
    subprocess.run([*pip, "--target", str(site), str(place)], check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        plugins.cache_clear()
        yield
    plugins.cache_clear()


@pytest.mark.parametrize("words", every_command())
def test_a_printed_command_can_be_typed(words, tmp_path, request):
    if "model=examples/colour_field" in words:
        request.getfixturevalue("example_package")
    verb, *rest = words
    rest = rest[: rest.index(END)] if END in rest else rest
    assert verb in main.VERBS or verb in ("--help", "VERB"), words
    flags = [w for w in rest if w in FLAGS or w.startswith("--protocols")]
    rest = [w for w in rest if w not in flags]
    options = [w for w in rest if OPTION.match(w) or re.match(r"^\+?[\w./@]+=", w)]
    if verb in COMPOSED:
        own = ("out=", "rounds=") if verb != "train" else ()
        chosen = [w for w in options if not w.startswith(own)]
        if verb == "demo" and not any(w.startswith("experiment=") for w in chosen):
            chosen = ["experiment=demo", *chosen]
        compose(chosen, tmp_path)
    elif verb == "score":
        named = [w for w in options if not w.startswith(tuple(f"{o}=" for o in score.OWN_OPTIONS))]
        ours = any(w.startswith("model.") for w in named)
        compose(named if not ours else ["model=diffusion/fast_unet", *named], tmp_path)
    elif verb == "import":
        compose([w for w in options if w.split("=")[0] not in import_.OPTIONS], tmp_path)
    elif verb in OPTIONS:
        known = {*OPTIONS[verb], "knobs"}
        assert {w.split("=")[0].split(".")[0] for w in options} <= known, words


def test_commands_are_found():
    found = list(every_command())
    assert len(found) > 100
