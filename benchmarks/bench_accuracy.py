"""PCK@0.2 of the torso over the 12 limb joints, true boxes, one DDIM step, one seed; peers on the same boxes.

    python benchmarks/bench_accuracy.py DATA [--model tiny] [--columns "as it is,one frame thrice"] [--no-peers]

DATA holds `lspet/` and `jhmdb/` as docs/default-model.md lays them out. Columns: the model as it is, with the key frame
in place of its neighbours, with the mirrored crop averaged in, and with the mean of four noises; then MoveNet and
BlazePose (`peers/`), which see one frame. The harder copy of JHMDB val has made occlusion and blur (decision 011), which are
made on our crops: peers are not measured on it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import prepare, row, start_table

prepare()

import numpy as np
import torch
from torch.utils.data import DataLoader

from diffusionpose.config import CorruptionConfig, SourceConfig
from diffusionpose.data.clips import ClipDataset, ClipRecord
from diffusionpose.metrics.pck import Pck
from diffusionpose.nn import heatmaps
from diffusionpose.nn.diffusion import seeded_noise
from diffusionpose.predict import PosePipeline
from diffusionpose.skeleton import POSETRACK15
from diffusionpose.training.sources import load_source

VARIANTS = {
    "as it is": {},
    "one frame thrice": {},
    "flip test": {"flip_test": True},
    "4 hypotheses": {"num_hypotheses": 4},
}
JHMDB = {"kind": "posetrack", "root": "jhmdb", "split": "val", "stride": 4}
SETS = {
    "LSPET, last 1,000": {
        "kind": "coco",
        "root": "lspet",
        "annotations": "annotations/val.json",
        "images": "images",
    },
    "JHMDB val, every 4th frame": JHMDB,
    "the same, harder": JHMDB,
}
HARDER = CorruptionConfig(blur=1, blur_each=1, occlusion=1, occluder_speed=0.15)


def accuracy(
    pipeline: PosePipeline, records: Sequence[ClipRecord], *, still: bool, harder: bool
) -> float:
    """Mean PCK over joints, in crop coordinates (an affine map of the image's: the same)."""
    config = pipeline.network.config
    dataset = ClipDataset(records, config, HARDER if harder else None)
    metric = Pck(config.skeleton_graph)
    for batch in DataLoader(dataset, batch_size=16, num_workers=1):
        images = batch["images"]
        images = images[:, 1:2].expand_as(images) if still else images
        noise = torch.stack(
            [
                torch.stack(
                    [
                        seeded_noise(pipeline.network.noise_shape, (0, index, n))
                        for n in range(pipeline.options.num_hypotheses)
                    ]
                )
                for index in batch["index"].tolist()
            ]
        )
        features = pipeline.network.features(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        points, _ = heatmaps.decode(pipeline.network.heatmaps(features, noise))
        metric.update(points.double().numpy(), batch["keypoints"].double().numpy())
    return metric.compute()["mean"]


def peer_accuracy(name: str, records: Sequence[ClipRecord]) -> float:
    """Of one of `peers.PEERS`."""
    from peers import predict

    metric = Pck(POSETRACK15)
    metric.update(predict(name, records), np.stack([record.keypoints for record in records]))
    return metric.compute()["mean"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--columns", default="as it is,one frame thrice")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    chosen, others = options.columns.split(","), []
    if not options.no_peers:
        from peers import PEERS, setup

        setup()
        others = list(PEERS)
    start_table(["set", "people", *chosen, *others])
    for name, fields in SETS.items():
        source = SourceConfig.model_validate(fields | {"root": options.data / fields["root"]})
        records = load_source(source, POSETRACK15)
        harder = "harder" in name
        cells = []
        for variant in chosen:
            pipeline = PosePipeline.from_pretrained(
                options.model, device="cpu", **VARIANTS[variant]
            )
            still = variant == "one frame thrice"
            cells.append(f"{accuracy(pipeline, records, still=still, harder=harder):.3f}")
        cells += ["-" if harder else f"{peer_accuracy(peer, records):.3f}" for peer in others]
        row([name, str(len(records)), *cells])


if __name__ == "__main__":
    main()
