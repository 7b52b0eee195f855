"""PCK@0.2 of the torso, 12 limb joints, ground-truth boxes, one DDIM step, one seed.

    python benchmarks/bench_accuracy.py DATA [MODEL [COLUMN,...]]

DATA holds `lspet/` and `jhmdb/` as docs/default-model.md lays them out. Columns: the model as it is, with the key frame
in place of its neighbours, with the mirrored crop averaged in, and with the mean of four noises.
"""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from diffusionpose.config import SourceConfig
from diffusionpose.data.clips import ClipDataset
from diffusionpose.metrics.pck import Pck
from diffusionpose.nn import heatmaps
from diffusionpose.nn.diffusion import seeded_noise
from diffusionpose.predict import PosePipeline
from diffusionpose.train import load_source

VARIANTS = {
    "as it is": {},
    "one frame thrice": {},
    "flip test": {"flip_test": True},
    "4 hypotheses": {"num_hypotheses": 4},
}
SETS = {
    "LSPET, last 1,000": {
        "kind": "coco",
        "root": "lspet",
        "annotations": "annotations/val.json",
        "images": "images",
    },
    "JHMDB val": {"kind": "posetrack", "root": "jhmdb", "split": "val", "stride": 4},
}


def accuracy(pipeline: PosePipeline, source: SourceConfig, still: bool) -> float:
    """Mean PCK over joints, in crop coordinates (an affine map of the image's: the same)."""
    config = pipeline.network.config
    dataset = ClipDataset(load_source(source, config.skeleton_graph), config)
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


def main(data: str, model: str = "tiny", columns: str = ",".join(VARIANTS)) -> None:
    chosen = columns.split(",")
    print(f"| set | {' | '.join(chosen)} |\n|---|{'---|' * len(chosen)}")
    for name, fields in SETS.items():
        source = SourceConfig.model_validate(fields | {"root": Path(data) / fields["root"]})
        row = []
        for variant in chosen:
            pipeline = PosePipeline.from_pretrained(model, device="cpu", **VARIANTS[variant])
            row.append(accuracy(pipeline, source, still=variant == "one frame thrice"))
        print(f"| {name} | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
