"""Accuracy and jitter of a model and of published models, on the same boxes.

    python benchmarks/bench_accuracy.py DATA [--model tiny] [--columns "as it is,one frame thrice"]
        [--seeds 3] [--no-peers]

DATA contains `lspet/`, `jhmdb/` and `coco/`, laid out as in docs/default-model.md. The metric is
PCK@0.2 of the torso over the 12 limb joints, with ground-truth boxes and one DDIM step; the
deviation is over noise seeds. Columns: the default settings ("as it is"), the key frame in place of
its neighbours ("one frame thrice"), averaged with the mirrored crop ("flip test"), the mean of four
noise samples ("4 hypotheses"), four DDIM steps ("4 steps"), and bfloat16; then MoveNet and
BlazePose (`peers/`), which use a single frame. The COCO images are from train2017, which is
training data of MoveNet, but not of ours. The harder version of JHMDB val has synthetic occlusion
and blur (decision 011) on our crops, so peers are not evaluated on it. Jitter is measured on joints
at rest. The last table is for whole
videos: the prediction whose box overlaps the labelled one most, with and without the confirmation
    of
uncertain boxes by their pose.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import JHMDB, LSPET, prepare, row, start_table

prepare()

import numpy as np
import torch
from torch.utils.data import DataLoader

from diffusionpose.boxes import pairwise_iou
from diffusionpose.data.clips import ClipDataset, ClipRecord
from diffusionpose.metrics.pck import LIMB_JOINTS, Pck, torso_lengths
from diffusionpose.nn import heatmaps
from diffusionpose.nn.diffusion import seeded_noise
from diffusionpose.nn.geometry import transform
from diffusionpose.predict import PosePipeline
from diffusionpose.recipe import CorruptionConfig, SourceConfig
from diffusionpose.skeleton import POSETRACK15
from diffusionpose.training.sources import load_source

Predict = Callable[[Sequence[ClipRecord]], np.ndarray]
"""From records to (people, joints, 2) pixels of the key frame."""

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one frame thrice": {},
    "flip test": {"flip_test": True},
    "4 hypotheses": {"num_hypotheses": 4},
    "4 steps": {"num_inference_steps": 4},
    "bfloat16": {"precision": "bfloat16"},
}
COCO = {
    "kind": "coco",
    "root": "coco",
    "annotations": "person_keypoints_train2017.json",
    "images": "train2017",
}
SETS: dict[str, tuple[dict[str, Any], CorruptionConfig | None]] = {
    "LSPET, last 1,000": (LSPET, None),
    "JHMDB val, every 4th frame": (JHMDB | {"stride": 4}, None),
    "COCO, 80 stills": (COCO, None),
    "JHMDB val, harder": (
        JHMDB | {"stride": 4},
        CorruptionConfig(blur=1, blur_each=1, occlusion=1, occluder_speed=0.15),
    ),
}
STILL = 0.1
"""Joints whose labels move by less than this share of the torso in a whole clip are at rest."""
OVERLAPS, FAR_AWAY = 0.1, 1e6


def predict(
    pipeline: PosePipeline,
    variant: str,
    harder: CorruptionConfig | None,
    num_seeds: int,
    records: Sequence[ClipRecord],
) -> list[np.ndarray]:
    """Return our predictions for each noise seed, with shared features."""
    dataset, found = ClipDataset(records, pipeline.network.config, harder), []
    for batch in DataLoader(dataset, batch_size=16, num_workers=1):
        images = batch["images"]
        seen = images[:, 1:2] if variant == "one frame thrice" else images
        features = pipeline.network.features(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        features = features.expand(-1, images.shape[1], *features.shape[2:])
        found.append(
            [located(pipeline, features, batch, seed) for seed in range(num_seeds)],
        )
    return [np.concatenate(of_seed) for of_seed in zip(*found, strict=True)]


def located(
    pipeline: PosePipeline, features: torch.Tensor, batch: dict[str, torch.Tensor], seed: int
) -> np.ndarray:
    """Predict (people, joints, 2) pixels of the key frame from features and a noise seed."""
    network, hypotheses = pipeline.network, range(pipeline.options.num_hypotheses)
    noise = torch.stack(
        [
            torch.stack([seeded_noise(network.noise_shape, (seed, index, n)) for n in hypotheses])
            for index in batch["index"].tolist()
        ]
    )
    points, _ = heatmaps.decode(network.heatmaps(features, noise), network.config.sigma)
    crop = heatmaps.heatmap_to_crop(points).double().numpy()
    return np.stack(
        [transform(xy, to) for xy, to in zip(crop, batch["to_image"].numpy(), strict=True)]
    )


def labels(records: Sequence[ClipRecord]) -> np.ndarray:
    """Return (people, joints, 2) labelled keypoints, NaN where missing."""
    return np.stack([record.keypoints for record in records])


def accuracy(found: np.ndarray, records: Sequence[ClipRecord]) -> float:
    """Compute PCK, averaged over joints."""
    metric = Pck(POSETRACK15)
    metric.update(found, labels(records))
    return metric.compute()["mean"]


def by_video(records: Sequence[ClipRecord]) -> list[list[int]]:
    """Return the indices of the records of each video."""
    videos = defaultdict(list)
    for place, record in enumerate(records):
        videos[record.video].append(place)
    return list(videos.values())


def still_joints(records: Sequence[ClipRecord]) -> list[tuple[list[int], np.ndarray, float]]:
    """Return, per clip with limb joints at rest: indices of its frames, these joints, its torso."""
    limbs = [POSETRACK15.index(joint) for joint in LIMB_JOINTS]
    out = []
    for places in by_video(records):
        points = labels([records[place] for place in places])
        torso = float(np.median(torso_lengths(points, POSETRACK15.joints)))
        reach = np.linalg.norm(points - points.mean(0), axis=-1).max(0)
        still = np.array([n for n in limbs if reach[n] < STILL * torso], int)
        if len(still) and len(places) > 2:
            out.append((places, still, torso))
    return out


def jitter(found: np.ndarray, records: Sequence[ClipRecord]) -> float:
    """Compute the mean acceleration of joints at rest, in torso lengths per frame squared."""
    values = []
    for places, joints, torso in still_joints(records):
        points = found[places][:, joints]
        steps = points[2:] - 2 * points[1:-1] + points[:-2]
        values.append(np.linalg.norm(steps, axis=-1).ravel() / torso)
    return float(np.concatenate(values).mean())


def with_still_joints(records: list[ClipRecord]) -> list[ClipRecord]:
    """Return the records of clips with joints at rest."""
    wanted = sorted(place for places, *_ in still_joints(records) for place in places)
    return [records[place] for place in wanted]


def by_itself(pipeline: PosePipeline, records: Sequence[ClipRecord]) -> list[str]:
    """Run whole videos; return the frames with the labelled person missed, and PCK.

    The joints of missed people count as wrong.
    """
    points = np.full((len(records), len(POSETRACK15.joints), 2), FAR_AWAY)
    num_missed = 0
    for places in by_video(records):
        folder = records[places[0]].frames[1].parent
        names = sorted(path.name for path in folder.iterdir())
        poses = pipeline(folder, fps=25)
        for place in places:
            record = records[place]
            rows = np.flatnonzero(poses.frame_index == names.index(record.frames[1].name))
            overlap = pairwise_iou(record.box[None], poses.box[rows])[0]
            if len(rows) and overlap.max() > OVERLAPS:
                points[place] = poses.keypoints[rows[overlap.argmax()]]
            else:
                num_missed += 1
    return [str(num_missed), f"{accuracy(points, records):.3f}"]


def spread(values: list[float]) -> str:
    """Format the mean, with the standard deviation if there are several values."""
    mean = f"{statistics.fmean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--columns", default="as it is,one frame thrice")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    pipelines = {
        name: PosePipeline.from_pretrained(options.model, device="cpu", **VARIANTS[name])
        for name in options.columns.split(",")
    }
    others: dict[str, Predict] = {}
    if not options.no_peers:
        from peers import PEERS, setup
        from peers import predict as predict_peer

        setup()
        others = {name: partial(predict_peer, name) for name in PEERS}

    def measured(
        fields: dict[str, Any],
        harder: CorruptionConfig | None,
        measure: Callable[[np.ndarray, Sequence[ClipRecord]], float],
        wanted: Callable[[list[ClipRecord]], list[ClipRecord]] = lambda records: records,
    ) -> list[str]:
        source = SourceConfig.model_validate(fields | {"root": options.data / fields["root"]})
        records = wanted(load_source(source, POSETRACK15))
        cells = [str(len(records))]
        for name, pipeline in pipelines.items():
            runs = predict(pipeline, name, harder, options.seeds, records)
            cells.append(spread([measure(run, records) for run in runs]))
        return cells + [
            "-" if harder else f"{measure(run(records), records):.3f}" for run in others.values()
        ]

    start_table(["PCK@0.2", "people", *pipelines, *others])
    for name, (fields, harder) in SETS.items():
        row([name, *measured(fields, harder, accuracy)])
    print()
    start_table(["jitter", "frames", *pipelines, *others])
    row(["still joints of JHMDB val", *measured(JHMDB, None, jitter, with_still_joints)])
    print()
    source = SourceConfig.model_validate(JHMDB | {"root": options.data / JHMDB["root"]})
    records = load_source(source, POSETRACK15)
    start_table(["whole videos", "frames", "missed", "PCK@0.2"])
    pipeline = PosePipeline.from_pretrained(options.model, device="cpu")
    row(["JHMDB val", str(len(records)), *by_itself(pipeline, records)])
    # Without calibration, poses do not confirm uncertain boxes; joints do not depend on it.
    pipeline.network.config = pipeline.network.config.model_copy(update={"calibration": None})
    row(["the detector alone", str(len(records)), *by_itself(pipeline, records)])


if __name__ == "__main__":
    main()
