"""Pseudo-label training data of the default model with MoveNet Thunder.

python tools/teach.py DATA [lspet jhmdb people]

DATA is laid out as in docs/default-model.md; by default all sets are processed. Written are:

- `lspet/annotations/train_taught.json`: `train.json` with noses, which the set lacks, where MoveNet
  is confident, and without joints that MoveNet confidently locates elsewhere.
- `jhmdb/posetrack_data/train_taught`: the training clips with a nose in every fourth frame.
- `people/annotations.json`: joints found by MoveNet for the people in `people/boxes.json`.

No validation split is read.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from peers import keypoints, setup

from diffusionpose.data.clips import ClipRecord
from diffusionpose.metrics.pck import torso_lengths
from diffusionpose.recipe import SourceConfig
from diffusionpose.skeleton import COCO17, POSETRACK15
from diffusionpose.training.sources import load_source

SURE_OF_NOSE = 0.4
SURE = 0.5
ELSEWHERE = 0.5
"""Share of the torso (left shoulder to right hip) by which annotators would not disagree."""
NOSE_STRIDE = 4
"""Noses are added to every n-th frame only, as frames of a clip are similar."""
ABSENT = [0.0, 0.0, 0.0]

SEEN = 0.4
"""Score threshold for joints of people without labels."""
LEAST_HEIGHT = 64
"""Minimum height of a box in pixels."""

Key = tuple[int, int]
"""Image and track of a person."""


def taught_noses(records: list[ClipRecord], found: np.ndarray) -> dict[Key, list[float]]:
    """Return the noses that MoveNet is confident of."""
    nose = found[:, COCO17.index("nose")]
    return {
        (record.image_id, record.track_id): [*np.round(point[:2], 2).tolist(), 2.0]
        for record, point in zip(records, nose, strict=True)
        if point[2] >= SURE_OF_NOSE
    }


def elsewhere(records: list[ClipRecord], found: np.ndarray) -> dict[Key, list[str]]:
    """Return, for each person, the joints that MoveNet confidently locates elsewhere."""
    out = {}
    shared = [joint for joint in COCO17.joints if joint in POSETRACK15.joints]
    for record, points in zip(records, found, strict=True):
        torso = torso_lengths(record.keypoints, POSETRACK15.joints)
        names = []
        for joint in shared:
            x, y, score = points[COCO17.index(joint)]
            distance = np.linalg.norm(record.keypoints[POSETRACK15.index(joint)] - (x, y))
            if score >= SURE and distance > ELSEWHERE * torso:
                names.append(joint)
        out[record.image_id, record.track_id] = names
    return out


def rewrite(content: dict, noses: dict[Key, list[float]], wrong: dict[Key, list[str]]) -> None:
    """Add noses and remove wrong joints, in place."""
    joints = content["categories"][0]["keypoints"]
    joints.append("nose")
    for annotation in content["annotations"]:
        key = annotation["image_id"], annotation["id"]
        points = annotation["keypoints"] + noses.get(key, ABSENT)
        for joint in wrong[key]:
            place = 3 * joints.index(joint)
            points[place : place + 3] = ABSENT
        annotation["keypoints"] = points
        annotation["num_keypoints"] = sum(v > 0 for v in points[2::3])


def teach_lspet(root: Path) -> None:
    """Add noses and remove doubtful joints."""
    crowd = {"kind": "coco", "annotations": "annotations/train.json", "images": "images"}
    records = load_source(SourceConfig.model_validate(crowd | {"root": root}), POSETRACK15)
    found = np.stack(list(keypoints("MoveNet Thunder", records)))
    noses, wrong = taught_noses(records, found), elsewhere(records, found)
    counts = Counter(joint for joints in wrong.values() for joint in joints)
    print(f"{len(records)} people, {len(noses)} noses, removed: {dict(counts)}")
    content = json.loads((root / "annotations" / "train.json").read_text())
    rewrite(content, noses, wrong)
    (root / "annotations" / "train_taught.json").write_text(json.dumps(content))


def teach_jhmdb(root: Path) -> None:
    """Add noses, and keep the annotated joints."""
    source = SourceConfig(kind="posetrack", root=root, split="train", stride=NOSE_STRIDE)
    records = load_source(source, POSETRACK15)
    noses = taught_noses(records, np.stack(list(keypoints("MoveNet Thunder", records))))
    print(f"{len(records)} people, {len(noses)} noses")
    target = root / "posetrack_data" / "train_taught"
    target.mkdir(exist_ok=True)
    for file in sorted((root / "posetrack_data" / "train").glob("*.json")):
        content = json.loads(file.read_text())
        place = 3 * content["categories"][0]["keypoints"].index("nose")
        for annotation in content["annotations"]:
            nose = noses.get((annotation["image_id"], annotation["track_id"]))
            if nose is not None:
                annotation["keypoints"][place : place + 3] = [*nose[:2], 1.0]
        (target / file.name).write_text(json.dumps(content))


def teach_people(root: Path) -> None:
    """Label the joints of people in `images/`, given their boxes.

    `boxes.json` is {file name: {"person_boxes_xywh": [[x, y, w, h], ...]}}.
    """
    photos = json.loads((root / "boxes.json").read_text())
    images, records = [], []
    for image_id, (name, photo) in enumerate(sorted(photos.items())):
        images.append({"id": image_id, "file_name": name})
        for x, y, width, height in photo["person_boxes_xywh"]:
            box = np.array([x, y, x + width, y + height])
            if height >= LEAST_HEIGHT:
                path, unknown = root / "images" / name, np.full((POSETRACK15.num_joints, 2), np.nan)
                records.append(ClipRecord((path,) * 3, unknown, box, name, image_id, len(records)))
    annotations = []
    for record, points in zip(records, keypoints("MoveNet Thunder", records), strict=True):
        seen = points[:, 2] >= SEEN
        labels = np.column_stack([points[:, :2].round(2), 2 * np.ones(len(points))])
        x, y, right, bottom = record.box.tolist()
        annotations.append(
            {"id": record.track_id, "image_id": record.image_id, "category_id": 1, "iscrowd": 0}
            | {"bbox": [x, y, right - x, bottom - y], "num_keypoints": int(seen.sum())}
            | {"keypoints": np.where(seen[:, None], labels, 0.0).ravel().tolist()}
        )
    category = {"id": 1, "name": "person", "keypoints": list(COCO17.joints)}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (root / "annotations.json").write_text(json.dumps(content))
    print(f"{len(records)} people, {sum(a['num_keypoints'] for a in annotations)} joints")


SETS = {"lspet": teach_lspet, "jhmdb": teach_jhmdb, "people": teach_people}


def main(
    data: Annotated[Path, typer.Argument(exists=True)],
    names: Annotated[list[str] | None, typer.Argument()] = None,
) -> None:
    if unknown := sorted(set(names or ()) - set(SETS)):
        sys.exit(f"teach: unknown set {', '.join(unknown)}; choose from {', '.join(SETS)}")
    setup()
    for name in names or SETS:
        SETS[name](data / name)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
