"""Loading of a trained run: its module and training cost, from its folder alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from t2ibench.core.errors import RunError
from t2ibench.data.records import DataSource
from t2ibench.engine.assemble import cost_of, load_module, read_spec
from t2ibench.engine.context import Context
from t2ibench.engine.device import chosen_device, prepare_device
from t2ibench.engine.spec import RunSpec
from t2ibench.evaluation.results import RunScores
from t2ibench.families.contract import TextToImageModule
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run


@dataclass(frozen=True)
class LoadedRun:
    """A trained run with everything that sampling and scoring need.

    Attributes:
        run: the run's folder.
        context: its specification, device, parts and data.
        module: the family with its sampling weights, in eval mode.
        clock: images, FLOPs and seconds of training.
    """

    run: Run
    context: Context
    module: TextToImageModule
    clock: Clock

    @property
    def spec(self) -> RunSpec:
        """Specification under which the run is used."""
        return self.context.spec

    @property
    def source(self) -> DataSource:
        """The data set, read at first use; sampling needs none.

        Raises:
            RunError: its training split is not that of the training.
        """
        source = self.context.source
        kept, now = self.run.manifest().get("data"), source.split_fingerprint("train")
        if kept is not None and kept != now:
            raise RunError(
                f"{self.run.path.name} was trained on data {kept} and data={source.name} is now "
                f"{now}; restore the data, or score its images as a folder of pictures."
            )
        return source

    def operating_point(self) -> dict[str, float]:
        """Knobs that scoring chose; none where the run was not scored."""
        if not self.run.scores.exists():
            return {}
        return dict(RunScores.read(self.run.scores).chosen.knobs)


def open_run(run: Run, context: Context | None = None) -> LoadedRun:
    """Loads a trained run from its own configuration and weights.

    Args:
        run: the run's folder.
        context: context with other settings of sampling and scoring; None: the run's own, on
            this machine's device.

    Raises:
        CheckpointError: the run is not trained to its end.
        T2IBenchError: a part is missing, or has changed since training.
    """
    if context is None:
        # Wherever it was trained: this machine's accelerator, where there is one.
        context = Context(read_spec(run), chosen_device("auto"))
    prepare_device(context.device)
    return LoadedRun(run, context, load_module(context, run), cost_of(run))


def open_folder(path: str | Path) -> LoadedRun:
    """Loads a trained run from its folder."""
    return open_run(Run.at(path))
