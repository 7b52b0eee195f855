"""Labels of MoveNet Thunder beside those of annotators, for training the default model.

python tools/teach.py DATA

DATA is as in docs/default-model.md. Writes `lspet/annotations/train_taught.json` and the JHMDB split `train_taught`: the files of
`train`, with a nose (neither set has one) where MoveNet is sure of it; and in LSPET, whose labels are a crowd's, without the
joints that MoveNet is sure to be elsewhere. Nothing of a validation split is read.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from peers import keypoints, setup

from diffusionpose.config import SourceConfig
from diffusionpose.data.clips import ClipRecord
from diffusionpose.skeleton import COCO17, POSETRACK15
from diffusionpose.training.sources import load_source

SURE_OF_NOSE = 0.4
SURE = 0.5
ELSEWHERE = 0.5
"""Of the torso, from left shoulder to right hip: further than any two people would disagree."""


def taught_noses(
    records: list[ClipRecord], found: np.ndarray
) -> dict[tuple[int, int], list[float]]:
    """Image and annotation (or track) -> the nose, where MoveNet is sure."""
    nose = found[:, COCO17.index("nose")]
    return {
        (record.image_id, record.track_id): [*np.round(point[:2], 2).tolist(), 2.0]
        for record, point in zip(records, nose, strict=True)
        if point[2] >= SURE_OF_NOSE
    }


def elsewhere(records: list[ClipRecord], found: np.ndarray) -> dict[tuple[int, int], list[str]]:
    """Image and annotation -> joints of the limbs that MoveNet is sure to be elsewhere."""
    out = {}
    hip, shoulder = POSETRACK15.index("right_hip"), POSETRACK15.index("left_shoulder")
    shared = [joint for joint in COCO17.joints if joint in POSETRACK15.joints]
    for record, points in zip(records, found, strict=True):
        torso = np.linalg.norm(record.keypoints[hip] - record.keypoints[shoulder])
        names = []
        for joint in shared:
            x, y, score = points[COCO17.index(joint)]
            distance = np.linalg.norm(record.keypoints[POSETRACK15.index(joint)] - (x, y))
            if score >= SURE and distance > ELSEWHERE * torso:
                names.append(joint)
        out[record.image_id, record.track_id] = names
    return out


def rewrite(
    content: dict,
    noses: dict[tuple[int, int], list[float]],
    wrong: dict[tuple[int, int], list[str]],
) -> None:
    """Puts noses in and joints out, in place."""
    joints = content["categories"][0]["keypoints"]
    added = "nose" not in joints
    if added:
        joints.append("nose")
    for annotation in content["annotations"]:
        key = (annotation["image_id"], annotation.get("track_id", annotation["id"]))
        points = annotation["keypoints"] + [0.0, 0.0, 0.0] * added
        for joint, point in [(joint, [0.0, 0.0, 0.0]) for joint in wrong.get(key, ())] + [
            ("nose", noses.get(key, [0.0, 0.0, 0.0]))
        ]:
            place = 3 * joints.index(joint)
            points[place : place + 3] = point
        annotation["keypoints"] = points
        if "num_keypoints" in annotation:
            annotation["num_keypoints"] = sum(v > 0 for v in points[2::3])


def main(data: str) -> None:
    setup()
    root = Path(data)
    coco = {"kind": "coco", "annotations": "annotations/train.json", "images": "images"}
    sets = {
        "lspet": SourceConfig.model_validate(coco | {"root": root / "lspet"}),
        "jhmdb": SourceConfig(kind="posetrack", root=root / "jhmdb", split="train"),
    }
    for name, source in sets.items():
        records = load_source(source, POSETRACK15)
        found = np.stack(list(keypoints("MoveNet Thunder", records)))
        noses = taught_noses(records, found)
        wrong = elsewhere(records, found) if name == "lspet" else {}
        counts = Counter(joint for joints in wrong.values() for joint in joints)
        print(f"{name}: {len(records)} people, {len(noses)} noses, left out: {dict(counts)}")
        np.savez_compressed(root / f"{name}_movenet.npz", keypoints=found)
        if name == "lspet":
            files = {
                root / "lspet" / "annotations" / "train.json": root
                / "lspet"
                / "annotations"
                / "train_taught.json"
            }
        else:
            folder = root / "jhmdb" / "posetrack_data"
            files = {
                file: folder / "train_taught" / file.name
                for file in sorted((folder / "train").glob("*.json"))
            }
        for before, after in files.items():
            content = json.loads(before.read_text())
            rewrite(content, noses, wrong)
            after.parent.mkdir(exist_ok=True)
            after.write_text(json.dumps(content))


if __name__ == "__main__":
    main(*sys.argv[1:])
