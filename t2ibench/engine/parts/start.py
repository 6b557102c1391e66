"""Initial weights of another run, as a part: progressive training (``start=RUN``).

All parts and the vocabulary are taken from that run, its cost is charged as a first stage's is,
and its hash is part of the new run's identity.
"""

from __future__ import annotations

from typing import Annotated, Any

from torch import nn

from t2ibench.core.errors import CheckpointError
from t2ibench.core.tensors import read_safetensors
from t2ibench.engine.assemble import cost_of
from t2ibench.engine.context import Context
from t2ibench.engine.parts.part import Part, Prepared
from t2ibench.engine.references import check_trained, locate_run
from t2ibench.engine.spec import Content
from t2ibench.runs.folder import Run

KEY = "start"
"""Configuration key under which a user names the run."""


class InitialWeights(Part):
    """The weights of a trained run of the same model, at another resolution or on other data.

    Attributes:
        run: folder, name or hash.
    """

    run: Annotated[str, Content]

    def identity(self, context: Context) -> dict[str, Any]:
        """Hash of the run."""
        return {"run": self.find(context).identity}

    def check(self, context: Context) -> None:
        """Checks that the run is trained and within the budget."""
        check_trained(KEY, self.find(context), context.spec.budget.budget())

    def prepare(self, context: Context, run: Run) -> Prepared:
        """Cost of the run; ``load_initial_weights`` loads its weights into the model."""
        begun = self.find(context)
        spent = cost_of(begun)
        return Prepared(
            nn.Identity(),
            spent.flops + spent.parts_flops,
            spent.seconds + spent.parts_seconds,
            {"run": begun.path.name, "identity": begun.identity},
        )

    def restore(self, context: Context, run: Run | None) -> nn.Module:
        """An empty module: a trained run has weights of its own."""
        return nn.Identity()

    def find(self, context: Context) -> Run:
        """The run that the user named.

        Raises:
            ConfigError: there is no such run.
        """
        return locate_run(KEY, self.run, context.spec)


def load_initial_weights(module: nn.Module, run: Run) -> None:
    """Loads a run's weights into a new module, first stage and statistics included.

    Raises:
        CheckpointError: the models differ; the message counts the tensors that do.
    """
    weights = read_safetensors(run.weights)
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    theirs = {name: tensor.shape for name, tensor in weights.items()}
    wrong = sorted(name for name in own | theirs if own.get(name) != theirs.get(name))
    if wrong:
        raise CheckpointError(
            f"{KEY}={run.path.name} does not fit this configuration's {type(module).__name__}: "
            f"{len(wrong)} of {len(own)} tensors differ, the first is {wrong[0]}; give the model, "
            "size, text and first stage of that run."
        )
    module.load_state_dict(weights, strict=True)


def initial_weights(context: Context) -> InitialWeights | None:
    """The part that ``start`` names, or None."""
    start = context.spec.start
    return None if start is None else InitialWeights(name=KEY, run=start)
