"""Person detectors: AP at IoU 0.5 for all and for tall people, and time per image.

    python benchmarks/bench_detector.py IMAGES BOXES.json [DETECTOR ...]

IMAGES is a folder; BOXES.json maps file names to objects with `person_boxes_xywh`. Detectors are
named as for `predict --detector`.
"""

import contextlib
import io
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent))
from common import prepare, row, start_table

prepare()

import numpy as np
import typer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from diffusionpose.data.clips import read_image
from diffusionpose.detection import PersonDetector, load_detector

TALL = 64
"""Height in pixels from which people are tall."""
FLOOR = 0.02
"""Score threshold of the detectors."""


def truth_of(boxes: list[list[list[float]]]) -> COCO:
    """Convert to COCO's format, with heights as areas, so that area ranges are height ranges."""
    people = [(image, box) for image, found in enumerate(boxes) for box in found]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image} for image in range(len(boxes))],
        "categories": [{"id": 1}],
        "annotations": [
            {
                "id": n,
                "image_id": image,
                "category_id": 1,
                "bbox": box,
                "area": box[3],
                "iscrowd": 0,
            }
            for n, (image, box) in enumerate(people, start=1)
        ],
    }
    truth.createIndex()
    return truth


def ap50(truth: COCO, found: list[dict]) -> tuple[float, float]:
    """Compute AP50 of all people, and of those of at least `TALL` pixels."""
    with contextlib.redirect_stdout(io.StringIO()):
        results = truth.loadRes(found)
        for one in results.dataset["annotations"]:
            one["area"] = one["bbox"][3]
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng = [[0, 1e5], [TALL, 1e5]]
        evaluation.params.areaRngLbl = ["all", "tall"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    # (thresholds, recalls, categories, areas, maxDets)
    every, tall = evaluation.eval["precision"][0, :, 0, :, 0].mean(0)
    return float(every), float(tall)


def detect(detector: PersonDetector, images: list[np.ndarray]) -> tuple[list[dict], float]:
    """Return detections in COCO's format, and the median milliseconds per image."""
    found, took = [], []
    for number, image in enumerate(images):
        started = time.perf_counter()
        (boxes,) = detector([image])
        took.append(time.perf_counter() - started)
        for (x0, y0, x1, y1), score in zip(
            boxes.boxes.tolist(), boxes.scores.tolist(), strict=True
        ):
            found.append(
                {
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "score": score,
                }
            )
    return found, 1e3 * statistics.median(took)


def main(
    folder: Annotated[Path, typer.Argument(exists=True)],
    boxes_file: Annotated[Path, typer.Argument(exists=True)],
    detectors: Annotated[list[str], typer.Argument()] = ["nanodet"],  # noqa: B006, read only
) -> None:
    annotated = json.loads(boxes_file.read_text())
    images = [read_image(folder / name) for name in annotated]
    truth = truth_of([image["person_boxes_xywh"] for image in annotated.values()])
    start_table(["detector", "AP50", f"AP50, {TALL} px or taller", "ms a picture"])
    for name in detectors:
        found, ms = detect(load_detector(name, score_threshold=FLOOR), images)
        row([name, *(f"{value:.3f}" for value in ap50(truth, found)), f"{ms:.1f}"])


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
