"""The plan of a scoring: protocols, knobs and the points of the front, made before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2ibench.core.hashing import hash_json
from t2ibench.core.knobs import Knob, front_knob, resolve_knobs
from t2ibench.data.records import DataSource
from t2ibench.engine.identity import SCORES_VERSION, sampling_settings
from t2ibench.engine.judges import front_protocol, heldout_protocol, test_protocol
from t2ibench.engine.load import LoadedRun
from t2ibench.engine.spec import ProtocolSpec, RunSpec
from t2ibench.evaluation.protocol import Protocol

STEPS = "num_steps"
"""The knob that ``protocol.steps_sweep`` sweeps, where a family has it."""


@dataclass(frozen=True)
class ScoringPlan:
    """Plan of what is drawn and judged for a run, made before any work.

    Attributes:
        test: the protocol of the scores.
        front: the protocol of the knob's sweep.
        heldout: the protocol of held-out compositions, or None.
        knob: the fidelity-alignment knob.
        knobs: complete knobs, where nothing chooses another value of ``knob``.
        settings: complete knobs of every point of the front.
        choose_by: distance that chooses the knob's value; None where it is fixed.
    """

    test: Protocol
    front: Protocol
    heldout: Protocol | None
    knob: Knob
    knobs: dict[str, float]
    settings: list[dict[str, float]]
    choose_by: str | None

    @staticmethod
    def of(loaded: LoadedRun) -> ScoringPlan:
        """The plan of a run under its specification.

        Raises:
            ConfigError: a knob that the family does not have, or out of range.
        """
        spec, module, source = loaded.spec, loaded.module, loaded.source
        fixed = fixed_knobs(spec, module.knobs)
        knobs = resolve_knobs(module.knobs, fixed)
        knob = front_knob(module.knobs)
        return ScoringPlan(
            resolved(test_protocol(spec.protocol), source),
            resolved(front_protocol(spec.protocol), source),
            heldout_protocol(spec.protocol, source),
            knob,
            knobs,
            front_settings(spec.protocol, knob, knobs),
            None if knob.name in fixed else spec.protocol.choose_by,
        )

    def inputs(self, loaded: LoadedRun) -> str:
        """Hash of all that the scores depend on."""
        return hash_json(
            {
                "version": SCORES_VERSION,
                "protocols": [p and p.to_dict() for p in (self.test, self.front, self.heldout)],
                "points": self.settings,
                "settings": sampling_settings(loaded.spec),
                "evaluator": loaded.spec.evaluator.model_dump(mode="json"),
                "source": loaded.source.fingerprint,
                "knobs": self.knobs,
                "choose_by": self.choose_by,
            }
        )


def fixed_knobs(spec: RunSpec, declared: Sequence[Knob]) -> dict[str, float]:
    """Knobs that the protocol fixes, where the family has them, then those of the user."""
    names = {knob.name for knob in declared}
    protocol = {name: value for name, value in spec.protocol.knobs.items() if name in names}
    return protocol | spec.knobs


def front_settings(
    protocol: ProtocolSpec, knob: Knob, knobs: Mapping[str, float]
) -> list[dict[str, float]]:
    """Complete knobs of every point of the front: steps by values of the knob.

    The configured number of steps is always among those swept; a family without that knob has a
    front of one axis.
    """
    values = list(protocol.knob_sweep or knob.sweep)
    swept = list(protocol.steps_sweep or [])
    if STEPS not in knobs or not swept:
        return [{**knobs, knob.name: value} for value in values]
    steps = sorted({*swept, int(knobs[STEPS])})
    return [{**knobs, STEPS: count, knob.name: value} for count in steps for value in values]


def resolved(protocol: Protocol, source: DataSource) -> Protocol:
    """The protocol with its choice of reference records made for a data set."""
    return protocol.resolved(source.split(protocol.reference_split))
