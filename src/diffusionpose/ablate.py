"""Ablation studies: variants of one recipe, each trained with several seeds.

A suite is a YAML file with a recipe, seeds, rows (a name and settings in `--set` syntax) and tables
(rows and the claim they test). Every run is a run folder of `diffusionpose.train`; an interrupted
suite resumes where it stopped. `ablation_report` summarises the results.
"""

import json
import math
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch.utils.data import DataLoader, Dataset

from diffusionpose.config import Count, Frozen, parse, read_yaml
from diffusionpose.data.clips import ClipDataset, noise_of
from diffusionpose.errors import ConfigError, DiffusionPoseError
from diffusionpose.formats import write_text
from diffusionpose.metrics.pck import Pck
from diffusionpose.model.model import DiffusionPose
from diffusionpose.nn import heatmaps
from diffusionpose.predict import choose_device
from diffusionpose.process import usable_cores
from diffusionpose.recipe import Seed, TrainConfig, read_recipe
from diffusionpose.train import (
    CHECKPOINT,
    WITHOUT_EFFECT,
    PoseTrackValidation,
    changed_settings,
    differing_settings,
    has_precision,
    inputs_of,
    make_evaluators,
    train,
)
from diffusionpose.training.checkpoints import StopSignals
from diffusionpose.training.features import FeatureClips, features_of
from diffusionpose.training.module import PoseTraining, named_weights
from diffusionpose.training.run_facts import RECIPE
from diffusionpose.training.sources import Ranks, make_loaders
from diffusionpose.version import __version__

RESULT = "result.json"
MEASURE = ("validation", "validation_metric")
"""Settings that define what is measured; rows that differ in them cannot be compared."""
PCK, AP = "pck", "ap"
"""Metric names: keys of `result.json`, and prefixes of `METRIC_SOURCE` in `metrics.jsonl`."""


class Row(Frozen):
    """One configuration of a suite."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    label: str
    settings: tuple[str, ...] = ()
    steps: tuple[Count, ...] = (1,)
    """DDIM steps to evaluate with, at most those of the schedule; tables of differences use 1."""

    @model_validator(mode="after")
    def _steps_can_be_shown(self) -> Self:
        if 1 not in self.steps:
            raise ValueError("steps must include 1")
        if len(set(self.steps)) < len(self.steps):
            raise ValueError("steps must not repeat")
        return self


class Table(Frozen):
    """Rows to compare, and the paper's claim that they test."""

    title: str
    claim: str
    rows: tuple[str, ...] = Field(min_length=1)
    reference: str
    """Name of the row that differences are relative to."""


class Suite(Frozen):
    """A recipe, the seeds, and all rows and tables."""

    recipe: Path
    """Relative to the suite file."""
    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2), min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)
    tables: tuple[Table, ...] = ()

    @model_validator(mode="after")
    def _rows_are_there(self) -> Self:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError("row names must not repeat")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must not repeat")
        for table in self.tables:
            for name in (*table.rows, table.reference):
                if name not in names:
                    raise ValueError(f"table {table.title!r} names an unknown row {name!r}")
        return self


@dataclass(frozen=True)
class Job:
    """One run of a suite: a row with one seed."""

    row: Row
    seed: int
    config: TrainConfig
    run: Path

    @property
    def is_done(self) -> bool:
        """Whether the result has been written for all requested steps.

        Raises:
            ConfigError: If the run folder holds a result for different settings.
        """
        if not (self.run / RESULT).is_file():
            return False
        changed = changed_settings(self.run / RECIPE, self.config, WITHOUT_EFFECT)
        if changed:
            raise ConfigError(
                f"{self.run} holds a run with different settings ({'; '.join(changed[:3])}): choose another --out"
            )
        wanted, result = {str(n) for n in self.row.steps}, self.result
        return all(
            wanted <= result.get(metric, {}).get(source, {}).keys()
            for source, metric in self.metrics.items()
        )

    @property
    def metrics(self) -> dict[str, str]:
        """Metric of each validation source: PoseTrack AP if the recipe asks for it, else PCK."""
        config = self.config
        return {one.name: AP if has_precision(config, one) else PCK for one in config.validation}

    @property
    def result(self) -> dict[str, Any]:
        """Contents of the result file that `run_job` wrote."""
        return dict(json.loads((self.run / RESULT).read_text()))

    def inputs(self) -> dict[str, Any]:
        """Fingerprints of the current data and weights, as from `train.inputs_of`."""
        return inputs_of(self.config, make_loaders(self.config), self.evaluators())

    def evaluators(self) -> dict[str, PoseTrackValidation]:
        """Evaluators of the validation sources; see `train.make_evaluators`."""
        return make_evaluators(self.config, Ranks(), StopSignals(self.run / CHECKPOINT))


def read_suite(path: Path) -> Suite:
    """Read a suite file.

    Raises:
        ConfigError: If it cannot be read, or has unknown keys or rows.
    """
    return parse(Suite, read_yaml(path), str(path))


def jobs_of(
    path: Path, out: Path, settings: tuple[str, ...] = (), data: Path | None = None
) -> list[Job]:
    """List all runs of a suite, ordered by seed, so that early results cover every row.

    Args:
        path: The suite file.
        out: Folder of the runs.
        settings: Overrides for every row in `--set` syntax; the row's own settings come after them.
        data: Passed to `read_recipe`.

    Raises:
        ConfigError: If a setting is unknown to the recipe, a row has more steps than its schedule,
            or rows differ in how they are measured.
    """
    suite = read_suite(path)
    recipe = path.parent / suite.recipe
    jobs = [
        Job(
            row,
            seed,
            read_recipe(recipe, (*settings, *row.settings, f"seed={seed}"), data),
            out / row.name / f"seed-{seed}",
        )
        for seed in suite.seeds
        for row in suite.rows
    ]
    for job in jobs:
        _check_measure(jobs[0], job, path)
    return jobs


def _check_measure(first: Job, job: Job, path: Path) -> None:
    most = job.config.model.diffusion.num_train_timesteps
    if max(job.row.steps) > most:
        raise ConfigError(
            f"{path}: row {job.row.name!r}: {max(job.row.steps)} steps exceed the {most} of its "
            "schedule (model.diffusion.num_train_timesteps)"
        )
    for key, (there, here) in differing_settings(first.config, job.config).items():
        if key.partition(".")[0] in MEASURE:
            raise ConfigError(
                f"{path}: row {job.row.name!r}: {key} is {here}, but {there} in row "
                f"{first.row.name!r}: all rows must use the same validation; move the row to a separate suite"
            )


def run_job(job: Job, on_warning: Callable[[str], None] = warnings.warn) -> None:
    """Train (or resume) and evaluate one run, and write its result."""
    is_begun = (job.run / CHECKPOINT).is_file()
    train(job.config, job.run, resume=is_begun, progress=False, on_warning=on_warning)
    model = DiffusionPose.from_pretrained(job.run / "model").to(choose_device("auto"))
    folder = job.config.feature_cache

    def wrap(clips: ClipDataset, is_training: bool) -> Dataset[Any]:
        return clips if folder is None or is_training else FeatureClips(clips, model, folder)

    loaders = make_loaders(job.config, wrap=wrap).validation
    scores = {
        source.name: {str(n): score(model, loader, n) for n in job.row.steps}
        for source, loader in zip(job.config.validation, loaders, strict=True)
    }
    people = {
        source.name: len(loader.dataset)  # pyright: ignore[reportArgumentType]
        for source, loader in zip(job.config.validation, loaders, strict=True)
    }
    device = next(model.parameters()).device
    precisions = {
        name.removeprefix(f"{AP}_"): {str(n): evaluator(model, device, n) for n in job.row.steps}
        for name, evaluator in job.evaluators().items()
    }
    result = {"row": job.row.name, "seed": job.seed, "version": __version__, "people": people}
    result |= job.inputs() | {PCK: _without_nan(scores), AP: _without_nan(precisions)}
    write_text(job.run / RESULT, json.dumps(result, indent=2, allow_nan=False) + "\n")


def _without_nan(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Replace NaN, such as the PCK of a joint that is never labelled, by None (null in JSON)."""
    return {
        source: {n: value if math.isfinite(value) else None for n, value in by_steps.items()}
        for source, by_steps in figures.items()
    }


@torch.inference_mode()
def score(model: DiffusionPose, loader: DataLoader[Any], num_inference_steps: int) -> float:
    """Compute the mean PCK over a loader's clips, with the same noise as `evaluate`."""
    metric, device = Pck(model.config.skeleton_graph), next(model.parameters()).device
    for batch in loader:
        noise = noise_of(batch, model.noise_shape)
        placed = {name: batch[name].to(device) for name in ("features", "images") if name in batch}
        conditions = model.encode(features_of(placed, model))
        maps = model.generate(conditions, noise.to(device), num_inference_steps)
        points, _ = heatmaps.decode(maps, model.config.sigma)
        metric.update(points.double().cpu().numpy(), batch["keypoints"].double().numpy())
    return metric.compute()["mean"]


def prepare(job: Job) -> None:
    """Fill a job's feature cache, if it has one, before parallel jobs read it."""
    if job.config.feature_cache is not None:
        torch.manual_seed(job.seed)
        model = PoseTraining(job.config, job.run).model
        folder, draws = job.config.feature_cache, job.config.feature_draws
        make_loaders(
            job.config,
            wrap=lambda clips, is_training: FeatureClips(
                clips, model, folder, draws if is_training else 1
            ),
        )


def check_inputs(jobs: list[Job], *, with_present: bool = False) -> list[str]:
    """Check that finished runs whose recipes name the same data and weights also used the same.

    Args:
        jobs: From `jobs_of`.
        with_present: Also compare with the files as they are now, as far as they can be read.

    Returns:
        Warnings about results of several versions, or without fingerprints.

    Raises:
        ConfigError: If fingerprints differ.
    """
    done = [job for job in jobs if job.is_done]
    known: dict[tuple[str, str], tuple[str, str]] = {}
    if with_present:
        different = {json.dumps(_named_inputs(job.config)): job for job in done}
        for job in different.values():
            # Unreadable files are reported by the runs that need them.
            with suppress(DiffusionPoseError):
                _compare(job, job.inputs(), "the current files", known)
    for job in done:
        _compare(job, job.result, str(job.run), known)
    silent = [job.run for job in done if not _digests(job.result)]
    versions = {job.result.get("version", "unknown"): job.run for job in done}
    notes = []
    if silent:
        notes.append(
            f"{len(silent)} results have no fingerprint of their data, such as {silent[0]}"
        )
    if len(versions) > 1:
        told = ", ".join(f"{version} ({run})" for version, run in versions.items())
        notes.append(f"results are from several versions: {told}")
    return notes


def _compare(
    job: Job, inputs: Mapping[str, Any], where: str, known: dict[tuple[str, str], tuple[str, str]]
) -> None:
    """Check a job's digests against `known`, and add new ones.

    `known` maps an input and the recipe's name for it to its digest and where that was first seen.
    """
    named = _named_inputs(job.config)
    for name, digest in _digests(inputs).items():
        first, there = known.setdefault((name, named[name]), (digest, where))
        if digest != first:
            raise ConfigError(
                f"{where}: the {name} differ from those of {there}: choose another --out, or remove the run"
            )


def _named_inputs(config: TrainConfig) -> dict[str, str]:
    """Describe where a recipe takes its data and weights from, under the keys of `_digests`."""
    train, validation = (
        [source.model_dump(mode="json") for source in sources]
        for sources in (config.train, config.validation)
    )
    skeleton, metric = config.model.skeleton, config.validation_metric
    return {
        "training data": json.dumps([train, skeleton]),
        "validation data": json.dumps([validation, skeleton, metric]),
        **{f"weights of {key}": str(path) for key, path in named_weights(config).items()},
    }


def _digests(inputs: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of each input, from `Job.inputs` or a result; empty for old results without them."""
    if "data_sha256" not in inputs:
        return {}
    return {
        "training data": inputs["data_sha256"],
        "validation data": inputs["validation_sha256"],
        **{f"weights of {key}": digest for key, digest in inputs["weights_sha256"].items()},
    }


def run_all(jobs: list[Job], workers: int, on_done: Callable[[Job, bool], None]) -> list[Job]:
    """Run all unfinished jobs in parallel, each in its own process.

    Args:
        jobs: From `jobs_of`.
        workers: Number of parallel runs; they share the cores.
        on_done: Called with every job that ended, and whether it succeeded.

    Returns:
        The jobs that failed; their errors are on stderr.

    Raises:
        ConfigError: If a run folder holds a result for different settings, data or weights.
    """
    check_inputs(jobs, with_present=True)
    context = multiprocessing.get_context("spawn")
    threads = max(1, usable_cores() // workers)
    waiting = [job for job in jobs if not job.is_done]
    seen: set[int] = set()
    for job in waiting:
        if job.seed not in seen:
            # A job that is broken reports it when it runs.
            with suppress(DiffusionPoseError):
                prepare(job)
                seen.add(job.seed)
    running: dict[int, tuple[Any, Job]] = {}
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                process = context.Process(target=_work, args=(job, threads))
                process.start()
                running[process.sentinel] = (process, job)
            for sentinel in wait(list(running)):
                process, job = running.pop(int(sentinel))  # type: ignore[arg-type]
                process.join()
                failed += [job] if process.exitcode else []
                on_done(job, not process.exitcode)
    finally:
        # On SIGTERM, runs save a checkpoint and exit.
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()
    return failed


def _work(job: Job, threads: int) -> None:
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    try:
        run_job(job, lambda text: _say(f"diffusionpose: warning: {text}"))
    except DiffusionPoseError as error:
        raise SystemExit(f"{job.run}: {error}") from None


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
