"""t2ibench from Python: what the verbs do, as functions (``import t2ibench``).

Configuration is given as on the command line, as words (``"budget.amount=1e12"``) and keywords
(``model="gan/fast_painter"``). Mistakes raise ``T2IBenchError`` with the sentence that the command
line prints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from t2ibench.cli.compose import compose_spec, rescored
from t2ibench.cli.reference import reference_words, sizes_of
from t2ibench.cli.verbs.score import refuse_for_run
from t2ibench.core.errors import ConfigError
from t2ibench.data.prompts import read_prompts
from t2ibench.engine.context import Context
from t2ibench.engine.external import (
    ExternalOptions,
    comparison_recipe,
    in_memory,
    score_external,
    scores_of,
)
from t2ibench.engine.generator import Generator, Pictures, as_prompts
from t2ibench.engine.load import open_folder
from t2ibench.engine.rescore import score_trained
from t2ibench.engine.study import scored_cell
from t2ibench.evaluation.results import RunScores
from t2ibench.runs.folder import Run, is_run

WIDTH = 140
"""Columns of a printed comparison."""


def load(run: str | Path) -> Generator:
    """A trained run, from its folder alone: no training pictures and no configuration are needed.

    Args:
        run: its folder.

    Returns:
        What generates images, on this machine's accelerator where there is one.

    Raises:
        T2IBenchError: no trained run, one that names foreign code, or one whose parts are gone.

    Example:
        >>> run = t2ibench.load(finished)
        >>> pictures = run.generate(["a red ring", "a blue star"], seed=0)
        >>> pictures[0].size
        (32, 32)
        >>> pictures.save("pictures")
        'plain'
        >>> sorted(run.knobs)
        ['inversion_steps', 'truncation_psi']
    """
    return Generator(open_folder(folder_of(run)))


def train(*words: str, **settings: Any) -> Generator:
    """Trains, samples and scores a configuration, or finds it done; interrupted, it goes on.

    Args:
        *words: as typed after ``t2ibench train``.
        **settings: the same as keywords, for names without a dot.

    Raises:
        T2IBenchError: the configuration, the data or the weights cannot be used.

    Example:
        >>> run = t2ibench.train(*tiny, model="gan/fast_painter", seed=0)
        >>> run.path == finished
        True
        >>> score = next(iter(run.scores.chosen.scores.values()))
        >>> score.ci_low <= score.value <= score.ci_high
        True
    """
    spec = compose_spec([*words, *as_words(settings)])
    loaded, _ = scored_cell(spec)
    alone = spec.trainer.devices * spec.trainer.num_nodes == 1
    return Generator(loaded if alone else open_folder(loaded.run.path))


def score(
    images: Any,
    prompts: Sequence[str] | str | Path | None = None,
    *words: str,
    name: str = "",
    extractor: str = "",
    out: str | Path | None = None,
    reference: str | Path | None = None,
    **settings: Any,
) -> RunScores:
    """Scores a run, anybody's images, or features, under a protocol.

    Args:
        images: a trained run or its folder; a folder, ``.npz`` or ``.safetensors`` as
            ``t2ibench score`` reads them; ``Pictures`` of a run; or images in memory: PIL images,
            or uint8 of (N, H, W, 3) or (N, 3, H, W); an iterator of pictures is read to its end.
        prompts: one an image, or a file of prompts; None: those that the images carry.
        *words: as typed after ``t2ibench score``.
        name: in leaderboards.
        extractor: what made features that do not say.
        out: folder for ``scores.json`` and the images, so that they join comparisons; None: beside
            what is on disk, nowhere for what is in memory.
        reference: a folder of pictures to compare with, all of them, in place of ``data=``.
        **settings: ``data=``, ``protocol=``, ``evaluator=`` and others.

    Raises:
        T2IBenchError: too few images for the protocol, or not what they should be.

    Example:
        >>> few = ["protocol.test.num_images=16", "protocol.test.reference_size=16"]
        >>> colours, shapes = ("red", "green", "blue", "white"), ("ring", "star", "cross", "circle")
        >>> prompts = [f"a {colour} {shape}" for colour in colours for shape in shapes]
        >>> pictures = t2ibench.load(finished).generate(prompts)
        >>> scores = t2ibench.score(pictures, None, *world, *few, data="shapes", protocol="quick")
        >>> exact = [s for s in scores.chosen.scores.values() if s.metric == "grader_exact"]
        >>> 0 <= exact[0].value <= 1
        True
    """
    overrides = [*words, *as_words(settings)]
    images = given_images(images)
    if isinstance(images, (str, Path)) and is_run(images):
        given = {"name": name, "extractor": extractor, "out": out, "reference": reference}
        refuse_for_run(images, given | {"prompts": prompts is not None})
        run = Run.at(images)
        return score_trained(run, rescored(run, overrides))
    if reference is not None:
        overrides = reference_words(sizes_of(images), reference, overrides)
    spec = compose_spec(overrides)
    seed = spec.seed if any(o.startswith("seed=") for o in overrides) else None
    folder = None if out is None else Path(out).expanduser()
    options = ExternalOptions(name, (), extractor, folder, seed, whole=reference is not None)
    context = Context.of(spec)
    if isinstance(images, (str, Path)):
        asked = () if prompts is None else read_prompts_or_words(prompts)
        return score_external(Path(images), context, replace(options, prompts=tuple(asked)))
    captions = images.captions if isinstance(images, Pictures) else None
    if prompts is not None:
        captions = [p.text for p in read_prompts_or_words(prompts)]
    theirs = in_memory(images, captions, comparison_recipe(context))
    return scores_of(theirs, context, options, name or "images", options.out)


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; printing it gives the tables of ``t2ibench compare``.

    Attributes:
        analysis: leaderboard, tests, ranks and fronts (``t2ibench.reporting``).
    """

    analysis: Any

    def __str__(self) -> str:
        from t2ibench.reporting import terminal_text, verdict_text

        return f"{terminal_text(self.analysis, WIDTH)}\n{verdict_text(self.analysis, WIDTH)}"

    def write(self, folder: str | Path, title: str = "t2ibench") -> list[Path]:
        """Writes CSV, Markdown, LaTeX, JSON, the page and, with matplotlib, PDFs."""
        from t2ibench.reporting import write_results

        return write_results(self.analysis, Path(folder).expanduser(), title)


def compare(
    *runs: str | Path | Generator,
    study: str = "",
    runs_folder: str | Path = "",
    metrics: str | Sequence[str] = (),
    protocol: str = "",
    where: str = "",
    sort: str = "",
    by: str = "",
) -> Comparison:
    """Leaderboard and tests over runs, or over a study.

    Args:
        *runs: trained runs, or folders with ``scores.json``.
        study: its name, in place of folders.
        runs_folder: where the study lies; empty: ``paths.runs``.
        metrics: these scores alone, or this one; empty: all.
        protocol: the scoring that is compared; empty: each run's own.
        where: facts or settings of the runs to keep: ``"family=diffusion,size=xs"``.
        sort: score or cost that orders the rows; empty: the first score.
        by: fact or setting whose values become sections of the rows; empty: no sections.

    Raises:
        T2IBenchError: nothing to compare, or scores measured in different ways.

    Example:
        >>> comparison = t2ibench.compare(finished)
        >>> "fast_painter" in str(comparison)
        True
        >>> sorted(path.suffix for path in comparison.write("tables") if path.suffix != ".pdf")
        ['.csv', '.csv', '.html', '.json', '.md', '.tex']
    """
    from t2ibench.cli.verbs.compare import analyse_runs

    names = metrics if isinstance(metrics, str) else ",".join(metrics)
    options = {"study": study, "runs": str(runs_folder), "metric": names}
    options |= {"protocol": protocol, "where": where, "sort": sort, "by": by}
    return Comparison(analyse_runs([str(folder_of(run)) for run in runs], options)[1])


def report(
    *runs: str | Path | Generator,
    out: str | Path,
    title: str = "t2ibench",
    protocol: str = "",
    where: str = "",
    sort: str = "",
    by: str = "",
) -> Path:
    """One self-contained HTML page over runs.

    Args:
        *runs: trained runs, or folders with ``scores.json``.
        out: the page.
        title: its heading.
        protocol: the scoring that is shown; empty: each run's own.
        where: facts or settings of the runs to keep: ``"family=diffusion,size=xs"``.
        sort: score or cost that orders the rows; empty: the first score.
        by: fact or setting whose values become sections of the rows; empty: no sections.

    Raises:
        T2IBenchError: a folder that holds no scores.

    Example:
        >>> t2ibench.report(finished, out="report.html").stat().st_size > 10_000
        True
    """
    from t2ibench.cli.verbs.report import write_report

    page = Path(out).expanduser()
    write_report([folder_of(run) for run in runs], page, title, protocol, where, sort, by)
    return page


def folder_of(run: Any) -> Path:
    """The folder of a run that is given as such, or opened.

    Raises:
        ConfigError: neither a run nor a path.
    """
    if isinstance(run, Generator):
        return run.path
    if not isinstance(run, (str, Path)):
        raise ConfigError(f"a run is its folder, or opened by load; {run!r} is neither.")
    return Path(run)


def given_images(images: Any) -> Any:
    """Images as ``score`` reads them: a path, ``Pictures``, an array, or a list of pictures.

    Raises:
        ConfigError: there is no image, or what is given holds none.
    """
    if isinstance(images, Generator):
        return images.path
    if isinstance(images, (str, Path, Pictures)):
        return images
    if isinstance(images, Image.Image):
        return [images]
    axes = getattr(images, "ndim", 4)
    if axes != 4:
        raise ConfigError(
            f"images have {axes} axes; give (N, H, W, 3) or (N, 3, H, W), and one image in a list."
        )
    try:
        found = list(images)
    except TypeError:
        raise ConfigError(
            f"images={images!r} cannot be scored; give a run, a folder or file, or pictures."
        ) from None
    if not found:
        raise ConfigError("there are no images to score; give at least one.")
    return found


def read_prompts_or_words(prompts: Sequence[str] | str | Path) -> list[Any]:
    """Prompts of a file, or as they are given."""
    if isinstance(prompts, (str, Path)):
        return list(read_prompts(prompts))
    return as_prompts(prompts)


def as_words(settings: Mapping[str, Any]) -> list[str]:
    """Keyword arguments as words of the command line.

    Example:
        >>> as_words({"model": "gan/fast_painter", "seed": 0, "start": None})
        ['model=gan/fast_painter', 'seed=0', 'start=null']
        >>> as_words({"knobs": {"guidance_scale": 2.0}})
        ['knobs={guidance_scale:2.0}']
    """
    return [f"{name}={as_value(value)}" for name, value in settings.items()]


def as_value(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{as_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(as_value(v) for v in value) + "]"
    text = str(value)
    if isinstance(value, (int, float)):
        return text
    plain = text and all(c.isalnum() or c in "_/.-@:" for c in text)
    return text if plain else json.dumps(text, ensure_ascii=False)
