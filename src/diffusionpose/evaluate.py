"""Evaluation of a model on a data set, or of prediction files against ground-truth files.

Ground truth (`read_truth`) is paired with predictions of a model (`predict_truth`) or from files; a
metric of these pairs (`metrics`) gives figures with confidence intervals (`Report`).
"""

import hashlib
import importlib.util
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffusionpose.annotated_poses import detected_boxes, predict_annotated, true_boxes
from diffusionpose.annotations import AnnotatedVideo
from diffusionpose.data.annotated_sets import (
    AnnotatedSet,
    Clips,
    coco_set,
    posetrack_clips,
    posetrack_set,
)
from diffusionpose.data.detections import Detections, detection_files, load_detections
from diffusionpose.data.posetrack import usable_joints
from diffusionpose.data.posetrack_files import find_annotations, label_version, read_posetrack
from diffusionpose.errors import DataError, MissingExtraError
from diffusionpose.evaluate_options import (
    IN_HEAD_LENGTHS,
    METRICS,
    PACKAGES,
    POSETRACK_METRICS,
    TRACKING,
    TRUE_BOXES,
    EvaluateOptions,
)
from diffusionpose.formats.published import PublishedFigures
from diffusionpose.formats.score_table import ScoreRow, ScoreTable
from diffusionpose.metrics.base import COVERAGE, JointMetric, Metric, bootstrap
from diffusionpose.metrics.oks import OksAP
from diffusionpose.metrics.pairs import VideoPair, frame_notes, pair_videos
from diffusionpose.metrics.posetrack_frames import require_head_boxes, require_shapely
from diffusionpose.networks import PoseNetwork, load_network
from diffusionpose.predict import choose_device
from diffusionpose.version import __version__

TITLES = {
    "posetrack-ap": "PoseTrack AP",
    "oks": "OKS AP",
    "pck": "PCK, 0.2 of the torso",
    "pckh": "PCKh, 0.5 of the head",
    "mota": "MOTA, mean over joints",
    "hota": "HOTA, mean over joints",
}


@dataclass(frozen=True, eq=False)
class Report:
    """Result of an evaluation.

    Args:
        facts: Figures and how they came about, for JSON.
        table: The figures, for display.
        warnings: Anything unusual about the data.
        pairs: Ground truth and predictions of each video.
        clips: Image files of the frames and their neighbours; None if no data root was given.
    """

    facts: dict[str, Any]
    table: ScoreTable
    warnings: tuple[str, ...]
    pairs: list[VideoPair]
    clips: Clips | None

    def to_json(self) -> str:
        """Serialise the facts as strict JSON; NaN becomes null."""
        return json.dumps(_without_nan(self.facts), indent=2, ensure_ascii=False) + "\n"


Progress = Callable[[int], Callable[[], None]]
"""Called with the number of people; the function it returns is called after each."""


def evaluate(options: EvaluateOptions, progress: Progress | None = None) -> Report:
    """Evaluate a model or files of predictions.

    Raises:
        UsageError: If options contradict each other.
        DataError: If files are missing or malformed, or lack what the metric needs.
        CheckpointError: If the model is not found or broken.
        MissingExtraError: If the metric needs an extra that is not installed.
    """
    if options.metric in PACKAGES:
        package, extra = PACKAGES[options.metric]
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package.replace("_", "-"), extra)
    published = PublishedFigures.read(options.published)
    published.table_rows(OksAP.columns if options.metric == "oks" else JointMetric.columns)
    if options.model is None:
        pairs, source = _pairs_of_files(options)
    else:
        pairs, source = _pairs_of_model(options, progress)
    if not any(frame.people for pair in pairs for frame in pair.truth.frames):
        raise DataError(f"{source.data_name}: no annotated people")
    metric = METRICS[options.metric](pairs)
    return _report(options, pairs, metric, source, published)


# Sources of ground truth and predictions --------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """Provenance of the figures of a report."""

    name: str
    data_name: str
    split: str | None
    boxes: str
    facts: dict[str, object]
    label_version: str | None
    clips: Clips | None
    warnings: tuple[str, ...] = ()


def _pairs_of_files(options: EvaluateOptions) -> tuple[list[VideoPair], _Source]:
    assert options.truth is not None
    assert options.predictions is not None
    files = _annotation_files(options.truth)
    truths = [_prepared(read_posetrack(file), options) for file in files]
    names = {video.name for video in truths}
    found = [file for file in _annotation_files(options.predictions) if _video_name(file) in names]
    twice = [name for name, n in Counter(map(_video_name, found)).items() if n > 1]
    if twice:
        raise DataError(f"{options.predictions}: two files for the video {twice[0]}")
    predictions = [
        replace(read_posetrack(file, is_truth=False), name=_video_name(file)) for file in found
    ]
    pairs = pair_videos(truths, predictions)
    source = _Source(
        name=options.predictions.resolve().name,
        data_name=options.truth.resolve().name,
        split=None,
        boxes="those of the predictions",
        facts={
            "settings": options.settings(),
            "truth": _named_files(options.truth, files),
            "predictions": _named_files(options.predictions, found),
        },
        label_version=label_version(files[0]),
        clips=None
        if options.data is None
        else posetrack_clips(truths, options.data, options.split),
        warnings=tuple(frame_notes(pairs)),
    )
    return pairs, source


def _video_name(file: Path) -> str:
    """Name of the video of a file NAME.json, or NAME.posetrack.json from `predict`."""
    return file.stem.removesuffix(".posetrack")


def _annotation_files(path: Path) -> list[Path]:
    files = sorted(path.glob("[!.]*.json")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no annotation files (*.json)")
    return files


def _named_files(path: Path, files: Sequence[Path]) -> dict[str, str]:
    """Base name of `path` (no local folders in results), and SHA-256 over the files' contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return {"name": path.resolve().name, "sha256": digest.hexdigest()}


def input_files(options: EvaluateOptions) -> list[Path]:
    """List the files that an evaluation reads, except images.

    Raises:
        DataError: If there are no annotation files.
    """
    files = [] if options.published is None else [options.published]
    if options.model is None:
        assert options.truth is not None
        assert options.predictions is not None
        return [
            *files,
            *_annotation_files(options.truth),
            *_annotation_files(options.predictions),
        ]
    if options.boxes != TRUE_BOXES:
        files += detection_files(Path(options.boxes))
    model = Path(options.model)
    # Not `Path.is_dir`, which raises for names that are too long for the system.
    files += model.glob("*") if os.path.isdir(model) else [model]
    return [*files, *_truth_files(options)]


def _truth_files(options: EvaluateOptions) -> list[Path]:
    """List the files that define what is measured: annotations, and the subset if there is one."""
    assert options.data is not None
    if options.annotations is None:
        files = find_annotations(options.data, options.split)
    else:
        files = [options.data / options.annotations]
    return files if options.subset is None else [*files, options.data / options.subset]


def _pairs_of_model(
    options: EvaluateOptions, progress: Progress | None
) -> tuple[list[VideoPair], _Source]:
    assert options.model is not None
    assert options.data is not None
    data = read_truth(options)
    truths = data.videos
    # Check what the metric needs before a long run of the network.
    if options.metric in IN_HEAD_LENGTHS:
        require_head_boxes(truths)
    if options.metric in POSETRACK_METRICS:
        require_shapely(truths)
    by_truth = options.boxes == TRUE_BOXES
    detections = None if by_truth else load_detections(Path(options.boxes), options.box_score)
    network = _network(options)
    predictions, warnings = predict_truth(network, data, detections, options, progress)
    boxes = "true boxes"
    if not by_truth:
        boxes = f"detections {Path(options.boxes).name} from score {options.box_score:g}"
    source = _Source(
        name=str(network.facts["name"]),
        data_name=options.data.resolve().name,
        split=_split(options),
        boxes=boxes,
        facts={
            "model": network.facts,
            "engine": network.engine,
            "settings": options.settings(),
            "truth": _named_files(options.data, _truth_files(options)),
            "detections": None if detections is None else detections.counted(),
            "detection_files": None
            if detections is None
            else _named_files(Path(options.boxes), detection_files(Path(options.boxes))),
        },
        label_version=data.label_version,
        clips=data.clips,
        warnings=warnings,
    )
    pairs = [
        VideoPair(truth, found, by_truth) for truth, found in zip(truths, predictions, strict=True)
    ]
    return pairs, source


def _split(options: EvaluateOptions) -> str:
    """Describe which part of the data set is used."""
    file = options.annotations
    part = options.split
    if options.layout == "coco" and file is not None:
        # Results must not contain local folders.
        part = file.name if file.is_absolute() else str(file)
    return part if options.subset is None else f"{part}, subset {options.subset.name}"


def _network(options: EvaluateOptions) -> PoseNetwork:
    assert options.model is not None
    is_openvino = (options.engine, options.device) == ("openvino", "auto")
    return load_network(
        options.model,
        choose_device("cpu" if is_openvino else options.device),
        engine=options.engine,
        flip_test=options.flip_test,
        num_inference_steps=options.num_inference_steps,
    )


def read_truth(options: EvaluateOptions) -> AnnotatedSet:
    """Read the ground truth of the data set, with the joints that the metric uses.

    Raises:
        DataError: If files are missing or malformed.
    """
    assert options.data is not None
    if options.layout != "coco":
        found = posetrack_set(options.data, options.split, options.subset)
        return replace(found, videos=[_prepared(video, options) for video in found.videos])
    assert options.annotations is not None
    assert options.images is not None
    return coco_set(
        options.data, options.annotations, options.images, options.stride, options.subset
    )


def _prepared(video: AnnotatedVideo, options: EvaluateOptions) -> AnnotatedVideo:
    """Keep the people of every n-th annotated frame, and drop joints that the metric does not use.

    PoseTrack's own metrics use all joints as annotated.
    """
    annotated = [index for index, frame in enumerate(video.frames) if frame.people]
    kept = set(annotated[:: options.stride])
    as_labelled = options.metric not in POSETRACK_METRICS
    frames = []
    for index, frame in enumerate(video.frames):
        people = frame.people if index in kept else ()
        if as_labelled:
            people = (
                replace(person, keypoints=usable_joints(person, frame, video.layout))
                for person in people
            )
        frames.append(replace(frame, people=tuple(people)))
    return replace(video, frames=tuple(frames))


def predict_truth(
    network: PoseNetwork,
    data: AnnotatedSet,
    detections: Detections | None,
    options: EvaluateOptions,
    progress: Progress | None,
) -> tuple[list[AnnotatedVideo], tuple[str, ...]]:
    """Predict poses in every annotated frame, in ground-truth boxes or in detections.

    Args:
        network: From `load_network`.
        data: From `read_truth`.
        detections: None uses ground-truth boxes.
        options: Metric, seed and batch size are used.
        progress: Shows progress, if given.

    Returns:
        The videos with predicted people, and warnings.

    Raises:
        DataError: If no detection belongs to an annotated frame, or an image is missing.
    """
    warnings = []
    truths = data.videos
    if detections is None:
        boxes = true_boxes(truths)
        if options.metric in TRACKING:
            warnings.append(
                "track ids are taken from the ground truth: only positions are evaluated"
            )
    else:
        boxes = detected_boxes(truths, detections)
        if not boxes:
            counts = ", ".join(f"{number} {what}" for what, number in detections.counted().items())
            raise DataError(
                f"{options.boxes}: no detection belongs to an annotated frame ({counts})"
            )
    predictions = predict_annotated(
        network,
        truths,
        data.clips,
        boxes,
        seed=options.seed,
        batch_size=options.batch_size,
        on_person=progress(len(boxes)) if progress else None,
    )
    return predictions, tuple(warnings)


# Reporting --------------------------------------------------------------------------------------


def _missed_frames(pairs: Sequence[VideoPair]) -> Iterator[str]:
    """Warn about annotated frames without predictions (another stride?): they lower the figures."""
    predicted = [
        any(person.has_points for person in found.people)
        for pair in pairs
        for truth, found in pair.frames
        if any(person.has_joints for person in truth.people)
    ]
    if not all(predicted):
        without = predicted.count(False)
        yield f"{without} of {len(predicted)} annotated frames have no predictions"


def _report(
    options: EvaluateOptions,
    pairs: list[VideoPair],
    metric: Metric,
    source: _Source,
    published: PublishedFigures,
) -> Report:
    ones = np.ones(metric.num_videos, np.int64)
    values = tuple(metric.row(ones).tolist())
    intervals, notes = _intervals(metric, options)
    warnings = (*source.warnings, *_missed_frames(pairs), *metric.warnings, *notes)
    counts = _counts(pairs)
    table = ScoreTable(
        title=_title(options, source, counts),
        columns=metric.columns,
        measured=(ScoreRow(source.name, values, intervals),),
        published=published.table_rows(metric.columns),
        published_source=published.source,
    )
    facts: dict[str, Any] = {
        "version": __version__,
        "metric": options.metric,
        **source.facts,
        "data": source.data_name,
        "split": source.split,
        "label_version": source.label_version,
        "boxes": source.boxes,
        "counts": counts,
        "values": dict(zip(metric.columns, values, strict=True)),
        "joints": metric.joints(ones),
        "intervals": None,
        "published": None,
        "warnings": warnings,
    }
    if intervals is not None:
        facts["intervals"] = {
            "share": COVERAGE,
            "method": "bootstrap over videos",
            "resamples": options.num_resamples,
            "seed": options.seed,
            "values": dict(zip(metric.columns, intervals, strict=True)),
        }
    if published.rows:
        facts["published"] = {"source": published.source, "rows": dict(published.rows)}
    return Report(facts, table, warnings, pairs, source.clips)


def _intervals(
    metric: Metric, options: EvaluateOptions
) -> tuple[tuple[tuple[float, float], ...] | None, tuple[str, ...]]:
    """Bootstrap the (low, high) interval of each column; None and the reason if impossible."""
    if not options.num_resamples:
        return None, ()
    if metric.num_videos == 1:
        return None, ("no intervals: with one video there is nothing to resample",)
    low, high = bootstrap(metric, options.num_resamples, options.seed).tolist()
    return tuple(zip(low, high, strict=True)), ()


def _counts(pairs: Sequence[VideoPair]) -> dict[str, int]:
    """Count videos, annotated frames, and people with joints in them."""
    frames = [frame for pair in pairs for frame in pair.truth.frames if frame.people]
    people = sum(person.has_joints for frame in frames for person in frame.people)
    return {"videos": len(pairs), "frames": len(frames), "people": people}


def _title(options: EvaluateOptions, source: _Source, counts: dict[str, int]) -> str:
    """Title of the table: metric, data, size, boxes, and settings that are not the defaults."""
    data = " ".join(part for part in (source.data_name, source.split) if part)
    if source.label_version:
        data += f" (labels {source.label_version})"
    if options.layout == "coco":
        counts = {"images": counts["frames"], "people": counts["people"]}
    size = ", ".join(f"{number} {name}" for name, number in counts.items())
    parts = [TITLES[options.metric], data, size, f"boxes: {source.boxes}", *options.unusual()]
    return "; ".join(parts)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
