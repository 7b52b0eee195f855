"""Small data sets in the real formats, made at test time: moving stick figures."""

import json

import cv2
import numpy as np

from diffusionpose.skeleton import LSP14, POSETRACK15, POSETRACK17, remap

_REST = {
    "head_top": (0.0, -1.0),
    "nose": (0.04, -0.82),
    "head_bottom": (0.0, -0.66),
    "left_shoulder": (0.2, -0.6),
    "right_shoulder": (-0.2, -0.6),
    "left_elbow": (0.34, -0.34),
    "right_elbow": (-0.36, -0.36),
    "left_wrist": (0.44, -0.1),
    "right_wrist": (-0.5, -0.16),
    "left_hip": (0.12, 0.0),
    "right_hip": (-0.12, 0.0),
    "left_knee": (0.16, 0.46),
    "right_knee": (-0.2, 0.44),
    "left_ankle": (0.18, 0.92),
    "right_ankle": (-0.24, 0.9),
}


def figure(centre, size, swing):
    """(15, 2) pixels of a stick figure; `swing` moves arms and legs."""
    points = np.array([_REST[joint] for joint in POSETRACK15.joints])
    for joint, reach in (("left_wrist", 0.3), ("right_ankle", 0.2), ("right_wrist", -0.2)):
        points[POSETRACK15.index(joint), 0] += reach * np.sin(swing)
    return points * size + np.asarray(centre, float)


def draw(points, height=120, width=160):
    """Draw limbs in different colours for left, right and middle."""
    image = np.full((height, width, 3), (70, 90, 60), np.uint8)
    colours = {"left": (240, 120, 30), "right": (40, 120, 240), "centre": (230, 230, 230)}
    for a, b in POSETRACK15.limbs:
        ends = [tuple(np.rint(points[j] * 8).astype(int).tolist()) for j in (a, b)]
        cv2.line(image, *ends, colours[POSETRACK15.side(b)], 3, cv2.LINE_AA, shift=3)
    return image


def grown(points, factor=1.3):
    low, high = points.min(0), points.max(0)
    middle, size = (low + high) / 2, (high - low) * factor
    return [float(v) for v in (*(middle - size / 2), *size)]


def posetrack_root(root, videos=("000001_bonn", "000002_mpii"), num_frames=6, unlabelled=(0,)):
    """Make a PoseTrack18 root with one split, `val`; `unlabelled` frames exist as images only."""
    for number, video in enumerate(videos):
        images, annotations = [], []
        for index in range(num_frames):
            name = f"images/val/{video}/{index:06d}.jpg"
            points = figure((70 + 3 * index, 66), 50 + 3 * number, index / 2 + number)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / name), draw(points)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 97])
            image_id = 10_000_000_000 + number * 10_000 + index
            labelled = index not in unlabelled
            images.append(
                {"id": image_id, "frame_id": image_id, "vid_id": video, "file_name": name}
                | {"is_labeled": labelled, "nframes": num_frames}
            )
            if labelled:
                visible = np.column_stack([points, np.ones(15)])
                triples = remap(visible, POSETRACK15.joints, POSETRACK17.joints, missing=0.0)
                annotations.append(
                    {"id": image_id * 100, "image_id": image_id, "track_id": 0, "category_id": 1}
                    | {"bbox": grown(points), "bbox_head": head_xywh(points), "scores": []}
                    | {"keypoints": triples.ravel().tolist()}
                )
        category = {"id": 1, "name": "person", "keypoints": list(POSETRACK17.joints)}
        target = root / "posetrack_data" / "val" / f"{video}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": [category]}
        target.write_text(json.dumps(content))
    return root


def coco_root(root, number=4):
    """Make a COCO root with LSP's 14 joints.

    The last person is a crowd; the one before has three joints.
    """
    images, annotations = [], []
    (root / "images").mkdir(parents=True)
    for index in range(number):
        points = figure((80, 62), 52, index)
        cv2.imwrite(str(root / "images" / f"{index}.png"), draw(points)[..., ::-1])
        images.append({"id": index, "file_name": f"{index}.png", "width": 160, "height": 120})
        triples = np.column_stack([points, np.full(15, 2.0)])
        values = remap(triples, POSETRACK15.joints, LSP14.joints, missing=0.0)
        if index == number - 2:
            values[3:] = 0
        annotations.append(
            {"id": index + 1, "image_id": index, "category_id": 1, "bbox": grown(points, 1.2)}
            | {"iscrowd": int(index == number - 1), "keypoints": values.ravel().tolist()}
        )
    category = {"id": 1, "name": "person", "keypoints": list(LSP14.joints)}
    content = {"images": images, "annotations": annotations, "categories": [category]}
    (root / "train.json").write_text(json.dumps(content))
    return root


JOINTS17 = [
    "right_ankle",
    "right_knee",
    "right_hip",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_wrist",
    "right_elbow",
    "right_shoulder",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "head_bottom",
    "nose",
    "head_top",
]


def person17(points, track_id=0, visible=1):
    """Return a person in PoseTrack17's format.

    Scalars are one-element lists, the box is that of the head, and missing joints are omitted.
    """
    rows = remap(points, POSETRACK15.joints, JOINTS17)
    listed = [
        {"id": [joint], "x": [x], "y": [y], "is_visible": [visible]}
        for joint, (x, y) in enumerate(rows.tolist())
        if np.isfinite(x)
    ]
    x1, y1, width, height = head_xywh(points)
    box = {"x1": [x1], "y1": [y1], "x2": [x1 + width], "y2": [y1 + height]}
    return box | {"track_id": [track_id], "annopoints": [{"point": listed}]}


def head_xywh(points):
    x, y = points[POSETRACK15.index("head_top")]
    return [float(x) - 8, float(y), 16.0, 20.0]


def posetrack17_root(root, videos=("00001_bonn", "00002_mpii"), num_frames=6, unlabelled=(0,)):
    """Make a PoseTrack17 root with one split, `val`; original names under `images/bonn_5sec`."""
    for number, video in enumerate(videos):
        frames = []
        for index in range(num_frames):
            name = f"bonn_5sec/{video}/{index + 1:04d}_crop.jpg"
            points = figure((70 + 3 * index, 66), 50 + 3 * number, index / 2 + number)
            (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "images" / name), draw(points)[..., ::-1])
            labelled = index not in unlabelled
            frames.append(
                {"image": [{"name": name}], "imgnum": [index + 1], "is_labeled": [int(labelled)]}
                | {"ignore_regions": [], "annorect": [person17(points)] if labelled else []}
            )
        target = root / "annotations" / "val" / f"{video}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps({"annolist": frames}))
    return root


def edit(file, change):
    """Change a JSON file in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def put(path, value):
    """Return a change for `edit` that sets the value at a path, or removes it for `KeyError`."""

    def change(content):
        for part in path[:-1]:
            content = content[part]
        if value is KeyError:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return change


def first_file(root):
    """Return the first annotation file of a PoseTrack root."""
    return sorted(root.glob("*/val/*.json"))[0]
