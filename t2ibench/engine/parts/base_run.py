"""The run that a cascade's stage enlarges, as a part."""

from __future__ import annotations

from typing import Annotated, Any

from torch import nn

from t2ibench.core.errors import ConfigError
from t2ibench.core.frozen import content_hash
from t2ibench.engine.assemble import cost_of, untrained_module
from t2ibench.engine.context import Context
from t2ibench.engine.parts.part import Part, Prepared
from t2ibench.engine.references import check_trained, locate_run, module_of, run_below
from t2ibench.engine.spec import Content, Neither
from t2ibench.runs.folder import Run

KEY = "base"
"""Configuration key under which a user names the run."""


class BaseRun(Part):
    """A trained run of any family whose images the stage enlarges.

    It is found by its hash, which is part of the stage's identity; both are in one folder of runs,
    unless the stage was exported and carries it.

    Attributes:
        run: folder, name or hash; ``base=RUN`` on the command line.
        upscale: factor by which the stage enlarges each side.
        example: model of the base where none is named (``t2ibench info``).
    """

    run: Annotated[str | None, Content]
    upscale: Annotated[int, Neither]
    example: Annotated[str, Neither]

    def identity(self, context: Context) -> dict[str, Any]:
        """Hash of the run."""
        return {"run": self._run(context).identity}

    def resolved(self, context: Context) -> BaseRun:
        """The part with the run's hash in place of what the user typed."""
        return self.model_copy(update={"run": self._run(context).identity})

    def check(self, context: Context) -> None:
        """Checks that the run is trained, of the right resolution and within the budget."""
        spec, run = context.spec, self._run(context)
        if spec.text.name != "base":
            raise ConfigError(
                f"text={spec.text.name}: model={spec.model.name} shares the text encoder of its "
                "base; leave text= out, or set text=base."
            )
        below = check_trained(KEY, run, spec.budget.budget())
        made, wanted = below.data.resolution * self.upscale, spec.data.resolution
        if made != wanted:
            raise ConfigError(
                f"{KEY}={run.path.name} makes {below.data.resolution} px, which "
                f"model.module.upscale={self.upscale} turns into {made}, not "
                f"data.resolution={wanted}; set one of the three."
            )

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Loads the run's module, frozen; all that it cost is charged."""
        below = self._run(context)
        module, spent = module_of(below, context), cost_of(below)
        return Prepared(
            module,
            spent.flops + spent.parts_flops,
            spent.seconds + spent.parts_seconds,
            {"run": below.path.name, "identity": below.identity},
        )

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """Loads the run's module, or builds an untrained one of the example model."""
        if self.run is None:
            if context.example is None:
                raise self._unnamed(context)
            return untrained_module(context.below(context.example))
        return module_of(run_below(KEY, "base", self.run, context, run), context)

    def content(self, module: nn.Module) -> str:
        """Content hash of the run's weights, which the stage's state dict lacks."""
        return content_hash(module)

    def runs_below(self, context: Context, run: Run) -> dict[str, Run]:
        """The base, by its name."""
        return {} if self.run is None else {"base": run_below(KEY, "base", self.run, context, run)}

    def _run(self, context: Context) -> Run:
        if self.run is None:
            raise self._unnamed(context)
        return locate_run(KEY, self.run, context.spec)

    def _unnamed(self, context: Context) -> ConfigError:
        side = context.spec.data.resolution // self.upscale
        return ConfigError(
            f"model={context.spec.model.name} stands on a trained run of {side} px: give it as "
            f"{KEY}=RUN (t2ibench train model={self.example} data.resolution={side} trains one)."
        )
