"""Calibrate a model's scores, write the result to its config.json, and plot reliability diagrams.

python tools/calibrate.py MODEL_FOLDER DATA diagram.png

DATA is laid out as in docs/default-model.md. A joint is correct within 0.2 of the torso length. The
reported errors are from two-fold cross-validation over videos; the written calibration is fitted on
all people. Both data sets have the same weight.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import torch
import typer
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from common import JHMDB, LSPET

from diffusionpose.data.clips import ClipDataset, noise_of
from diffusionpose.formats import write_text
from diffusionpose.metrics.calibration import Reliability, calibrated, fit, reliability
from diffusionpose.metrics.pck import Pck
from diffusionpose.model.model import DiffusionPose
from diffusionpose.model.pretrained import CONFIG
from diffusionpose.nn import heatmaps
from diffusionpose.recipe import SourceConfig
from diffusionpose.training.sources import load_source

mpl.use("Agg")
from matplotlib import pyplot as plt

SETS: dict[str, dict[str, Any]] = {"LSPET val": LSPET, "JHMDB val": JHMDB | {"stride": 4}}


@torch.inference_mode()
def scored(model: DiffusionPose, source: SourceConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (people, joints) scores and correctness (NaN if unlabelled), (people,) video ids."""
    records = load_source(source, model.config.skeleton_graph)
    metric = Pck(model.config.skeleton_graph, joints=model.config.skeleton_graph.joints)
    scores = []
    for batch in DataLoader(ClipDataset(records, model.config), batch_size=16, num_workers=1):
        noise = noise_of(batch, model.noise_shape)
        maps = model.generate(model.encode(model.extract(batch["images"])), noise)
        points, found = heatmaps.decode(maps, model.config.sigma)
        metric.update(points.double().numpy(), batch["keypoints"].double().numpy())
        scores.append(found.double().numpy())
    videos = np.unique([record.video for record in records], return_inverse=True)[1]
    return np.concatenate(scores), np.concatenate(metric.hits()), videos


def evenly(owner: np.ndarray) -> np.ndarray:
    """Return indices of people, repeated so that all data sets have about the same weight."""
    counts = np.bincount(owner)
    return np.repeat(np.arange(len(owner)), np.rint(counts.max() / counts).astype(int)[owner])


def crossed(
    scores: np.ndarray, right: np.ndarray, halves: np.ndarray, people: np.ndarray
) -> np.ndarray:
    """Calibrate the scores of each half with the fit on the other."""
    out = np.empty_like(scores)
    for half in (0, 1):
        others = people[halves[people] != half]
        own = halves == half
        out[own] = calibrated(scores[own], fit(scores[others], right[others], ""))
    return out


def draw(found: dict[str, tuple[Reliability, Reliability]], path: Path) -> None:
    """Plot the share of correct joints against the score, before and after calibration."""
    figure, axes = plt.subplots(
        1, len(found), figsize=(4 * len(found), 3.8), squeeze=False, layout="tight"
    )
    for axis, (name, pair) in zip(axes[0], found.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for label, one in zip(("heatmap maximum", "calibrated"), pair, strict=True):
            axis.plot(
                one.score,
                one.right,
                marker="o",
                markersize=4,
                label=f"{label}, ECE {one.error:.3f}",
            )
        axis.set(
            title=name,
            xlabel="score",
            ylabel="share of joints that are right",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper left")
    figure.savefig(path, dpi=110)


def main(
    folder: Annotated[Path, typer.Argument(exists=True)],
    data: Annotated[Path, typer.Argument(exists=True)],
    diagram: Path,
) -> None:
    model = DiffusionPose.from_pretrained(folder).eval()
    parts = {
        name: scored(model, SourceConfig.model_validate(fields | {"root": data / fields["root"]}))
        for name, fields in SETS.items()
    }
    scores, right = (np.concatenate([part[n] for part in parts.values()]) for n in (0, 1))
    halves = np.concatenate([part[2] % 2 for part in parts.values()])
    owner = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts.values()])
    people = evenly(owner)
    chances = crossed(scores, right, halves, people)
    found = {
        name: (
            reliability(scores[owner == n], right[owner == n]),
            reliability(chances[owner == n], right[owner == n]),
        )
        for n, name in enumerate(parts)
    }
    for name, (before, after) in found.items():
        print(
            f"{name}: expected calibration error {before.error:.3f} before, {after.error:.3f} after"
        )
    draw(found, diagram)
    path = folder / CONFIG
    content = json.loads(path.read_text())
    fitted = fit(scores[people], right[people], ", ".join(parts))
    content["model"]["calibration"] = fitted.model_dump(mode="json")
    write_text(path, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
