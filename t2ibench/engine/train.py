"""Training: from a specification to a trained run."""

from __future__ import annotations

import copy
import logging
import shutil
import time
from typing import Any

import torch

from t2ibench.core.errors import BudgetError, ConfigError, ContentError, DamagedError, RunError
from t2ibench.core.ranks import barrier, from_first, rank
from t2ibench.data.check import left_out
from t2ibench.data.stream import BatchStream
from t2ibench.engine.assemble import INDEX, assemble, content_of, restore_parts, settings_of
from t2ibench.engine.build import check_parts
from t2ibench.engine.captions import caption_losses
from t2ibench.engine.context import Context
from t2ibench.engine.device import facts, prepare_device
from t2ibench.engine.fitting import cached_targets, cached_text, options_of, validation_batch
from t2ibench.engine.identity import find_or_make_run, resolved
from t2ibench.engine.interrupt import Interrupted, interruptible, outcome
from t2ibench.engine.load import LoadedRun, open_run
from t2ibench.engine.parts.part import Prepared
from t2ibench.engine.parts.start import initial_weights, load_initial_weights
from t2ibench.evaluation.flops import count_flops
from t2ibench.families.contract import TextToImageModule
from t2ibench.runs.clock import Clock
from t2ibench.runs.folder import Run
from t2ibench.training.checkpoint import load_weights, newest_whole, save_weights
from t2ibench.training.devices import check_devices
from t2ibench.training.fit import fit
from t2ibench.training.tracking import track_run

log = logging.getLogger(__name__)


def check(context: Context) -> None:
    """Refuses an impossible specification before any work.

    Raises:
        T2IBenchError: a setting is wrong, or something that the run depends on is missing.
    """
    spec = context.spec
    check_parts(spec)
    family = spec.model.module.cls
    if not family.trains and family.build_index is TextToImageModule.build_index:
        raise ConfigError(
            f"model={spec.model.name}: {family.__name__} has trains=False and no build_index, so "
            "nothing would be learnt; give it one, or set trains=True."
        )
    sizes = [spec.model.training.batch_size]
    sizes += [p.training.batch_size for p in spec.parts.values() if hasattr(p, "training")]
    check_devices(spec.trainer, sizes)
    start = initial_weights(context)
    for part in [*spec.parts.values(), spec.text, *([] if start is None else [start])]:
        part.check(context)
    multiple = spec.model.resolution_multiple
    if spec.data.resolution % multiple:
        raise ConfigError(
            f"data.resolution={spec.data.resolution} is not a multiple of {multiple}, which "
            f"model={spec.model.name} needs; choose such a resolution."
        )


@interruptible()
def train(context: Context) -> LoadedRun:
    """Finds or trains the run of a specification; its status records how that ended.

    Raises:
        T2IBenchError: the specification, the data or the weights cannot be used.
        Interrupted: a signal ended training; the same command resumes it.
    """
    prepare_device(context.device)
    check(context)
    start = initial_weights(context)
    context.start = None if start is None else start.find(context)
    run = find_or_make_run(context)
    with run.locked(), outcome(run):
        from_first(mend_manifest, context, run)
        if from_first(lambda: run.trained):
            try:
                return open_run(run, context)
            except DamagedError as error:
                if error.path != run.weights:
                    raise
                from_first(forget_training, run, error)
        clock, facts_of_parts = Clock(), {}
        for name, part in prepare_parts(context, run).items():
            clock.parts_flops += part.flops
            clock.parts_seconds += part.seconds
            facts_of_parts[name] = part.facts
        module = assemble(context, context.modules)
        if context.start is not None:
            load_initial_weights(module, context.start)
        write_manifest(context, run, facts_of_parts)
        if module.trains:
            trained = train_module(context, run, module, clock)
        else:
            trained = index_module(context, run, module, clock)
        run.set_status("trained", clock=clock.state_dict())
        return LoadedRun(run, context, trained.to(context.device).eval(), clock)


def mend_manifest(context: Context, run: Run) -> None:
    """Writes a manifest anew that cannot be read; its facts are those of the present data.

    They are the training's: a run is found by the content of its data and frozen networks.
    """
    path = run.path / "manifest.json"
    try:
        whole = isinstance(run.manifest().get("content"), dict)
        reason = f"{path} does not say what the run was trained on."
    except ContentError as error:
        whole, reason = False, str(error)
    if whole or not (path.exists() or run.trained):
        return
    log.warning("%s It is written anew.", reason)
    path.unlink(missing_ok=True)
    if run.trained:
        found = context.spec.text.prepare(context, run).facts
        restore_parts(context, run)
        write_manifest(context, run, {"text_encoder": found})


def forget_training(run: Run, damage: DamagedError) -> None:
    """Sets a run whose weights are gone back to its last checkpoint, or to its beginning."""
    log.warning("%s They are made anew, from the checkpoint where there is one.", damage)
    if newest_whole(run.checkpoint) is None:  # the weights are not made again bit by bit
        for folder in (run.path / "samples", run.path / "scores"):
            if folder.exists():
                shutil.rmtree(folder)
        run.scores.unlink(missing_ok=True)
    run.set_status("interrupted")


def prepare_parts(context: Context, run: Run) -> dict[str, Prepared]:
    """Prepares every part, in the order in which they may need each other, the text last.

    A run that begins with another's weights takes its parts as well; that run's cost includes
    theirs.
    """
    spec, found = context.spec, {}
    start = initial_weights(context)
    if context.start is not None and rank() == 0:
        carried = context.start.path / "parts"
        if carried.is_dir():
            shutil.copytree(carried, run.path / "parts", dirs_exist_ok=True)
    barrier()
    for name, part in spec.parts.items():
        if start is None or not part.weights_in_model:
            found[name] = part.prepare(context, run)
        else:
            found[name] = Prepared(part.restore(context, context.start).to(context.device))
        context.modules[name] = found[name].module
    found["text_encoder"] = spec.text.prepare(context, run)
    context.modules["text_encoder"] = found["text_encoder"].module
    if start is not None:
        found["start"] = start.prepare(context, run)
    return found


def write_manifest(context: Context, run: Run, parts: dict[str, Any]) -> None:
    """Records in the run's manifest its data, what of them is lost, parts, device and seed.

    Raises:
        RunError: it was begun with other data or other frozen networks.
    """
    spec = context.spec
    now = {
        "data": context.source.split_fingerprint("train"),
        "content": content_of(spec, context.modules),
    }
    device = facts(context.device, spec.trainer.precision)
    kept = run.manifest()
    for name, value in now.items():
        if name in kept and kept[name] != value and run.checkpoint.exists():
            raise begun_otherwise(run, name, kept[name], value)
    for name, facts_now in parts.items():
        before, after = run.fingerprint(name), facts_now.get("fingerprint")
        if None not in (before, after) and before != after and run.checkpoint.exists():
            raise begun_otherwise(run, name, before, after)
    settings = settings_of(resolved(context))
    told = tell_losses(context)
    run.write_manifest(seed=spec.seed, device=device, parts=parts, settings=settings, **told, **now)


def begun_otherwise(run: Run, name: str, before: object, now: object) -> RunError:
    """The error for a run that would go on with something else than it was begun with."""
    return RunError(
        f"{run.path.name} was begun with {name} {before}, which is now {now}; restore it, or "
        f"delete {run.path} to train from the start."
    )


def tell_losses(context: Context) -> dict[str, Any]:
    """Tells what of the data does not reach the model; returns it for the manifest."""
    if rank() != 0:
        return {}
    encoder: Any = context.modules["text_encoder"]
    captions, unused = caption_losses(encoder, context.source), left_out(context.source)
    for sentence in unused:
        log.warning("data %s: %s", context.source.name, sentence)
    return {"left_out": unused, "caption_losses": captions}


def train_module(
    context: Context, run: Run, module: TextToImageModule, clock: Clock
) -> TextToImageModule:
    """Trains the module under the budget; returns it with its sampling weights.

    Raises:
        Interrupted: a signal ended training.
    """
    spec, train_split = context.spec, context.source.split("train")
    module.to(context.device)
    targets = cached_targets(context, module, train_split)
    text = cached_text(context, module.text_encoder, train_split)

    def stream(images_seen: int, number: int, world_size: int) -> BatchStream:
        return BatchStream(
            train_split,
            batch_size=spec.model.training.batch_size,
            seed=spec.seed,
            images_seen=images_seen,
            rank=number,
            world_size=world_size,
            flip=spec.data.flip and not targets,
            text=text,
            targets=targets,
        )

    run.set_status("running")
    # Sharding spreads every tensor of what is trained, those of the run's frozen parts as well.
    trained = copy.deepcopy(module) if spec.trainer.strategy == "fsdp" else module
    config = spec.config()
    with track_run(config["logger"]["wandb"], run, config) as track:
        ended = fit(
            trained,
            stream,
            run,
            spec.budget.budget(),
            options_of(context, spec.model.training),
            spec.seed,
            clock,
            track,
            validation_batch(context.source),
        )
    if ended.signal is not None:
        raise Interrupted(ended.signal)
    load_weights(module, run.weights)
    return module


def index_module(
    context: Context, run: Run, module: TextToImageModule, clock: Clock
) -> TextToImageModule:
    """Builds the index of a generator without training, from one pass over the training split.

    Raises:
        BudgetError: the pass alone cost more than the budget.
    """
    split, budget = context.source.split("train"), context.spec.budget.budget()
    run.set_status("running")
    if rank() == 0:
        began = time.perf_counter()
        with torch.no_grad():
            module.to(context.device)
            flops = count_flops(lambda: module.build_index(split, run.path / INDEX))
        clock.seconds = time.perf_counter() - began
        clock.images_seen, clock.flops_per_image = len(split), flops / len(split)
        if clock.spent(budget) > budget.amount:
            raise BudgetError(
                f"budget.amount={budget.amount:g} {budget.unit} is less than the index of "
                f"{len(split)} images cost ({clock.spent(budget):g}); raise it."
            )
        save_weights(module, run.weights)
    barrier()
    module.open_index(run.path / INDEX)
    return module
