"""PoseTrack AP one step at a time, on plain lists: no vectorising, no caching, no shapely."""

import math

import numpy as np

from diffusionpose.skeleton import POSETRACK15

NUM_JOINTS = 15
GROUPS = (
    ("head_top", "head_bottom", "nose"),
    ("left_shoulder", "right_shoulder"),
    ("left_elbow", "right_elbow"),
    ("left_wrist", "right_wrist"),
    ("left_hip", "right_hip"),
    ("left_knee", "right_knee"),
    ("left_ankle", "right_ankle"),
)


def inside(x, y, polygon):
    """Ray casting; right for points that are not on the border."""
    crossings = False
    for index in range(len(polygon)):
        (x1, y1), (x2, y2) = polygon[index], polygon[index - 1]
        if (y1 > y) != (y2 > y) and x < (x2 - x1) * (y - y1) / (y2 - y1) + x1:
            crossings = not crossings
    return crossings


def as_points(person):
    """{joint: (x, y, score)} of the joints that are there."""
    points = {}
    for joint in range(NUM_JOINTS):
        x, y = (float(value) for value in person.keypoints[joint])
        score = float(person.scores[joint])
        if not math.isnan(x):
            points[joint] = (x, y, -9999.0 if math.isnan(score) else score)
    return points


def cleaned(people, regions):
    """(points, head box) of the people who count."""
    out = []
    for person in people:
        if not person.has_points:
            continue
        points = as_points(person)
        if regions:
            points = {
                joint: (x, y, score)
                for joint, (x, y, score) in points.items()
                if not any(inside(x, y, region) for region in regions)
            }
            if not points:
                continue
        out.append((points, person.head_box))
    return out


def head_length(box):
    x1, y1, x2, y2 = (float(value) for value in box)
    return 0.6 * math.sqrt((x2 - x1) ** 2 + (y2 - y1) ** 2)


def is_match(found, true, length, joint):
    if joint not in found or joint not in true:
        return False
    gap = math.sqrt(
        (found[joint][0] - true[joint][0]) ** 2 + (found[joint][1] - true[joint][1]) ** 2
    )
    return gap / length <= 0.5


def assignment(predicted, truth):
    """For each prediction its person of the truth, or None."""
    shares = []
    for found, _ in predicted:
        row = []
        for true, box in truth:
            right = sum(
                is_match(found, true, head_length(box), joint) for joint in range(NUM_JOINTS)
            )
            row.append(right / len(true) if true else 0.0)
        shares.append(row)
    for row in shares:
        best = row.index(max(row))
        for column in range(len(row)):
            if column != best:
                row[column] = 0.0
    owner = [None] * len(predicted)
    for column in range(len(truth)):
        values = [row[column] for row in shares]
        if max(values) > 0:
            owner[values.index(max(values))] = column
    return owner


def average_precision(scores, labels, num_truth):
    if not scores:
        return 0.0
    if num_truth == 0:
        return math.nan
    order = np.argsort(np.array(scores))[::-1]
    recall, precision, hits = [0.0], [0.0], 0
    for rank, index in enumerate(order, start=1):
        hits += labels[index]
        recall.append(hits / num_truth)
        precision.append(hits / rank)
    recall.append(1.0)
    precision.append(0.0)
    for index in range(len(precision) - 2, -1, -1):
        precision[index] = max(precision[index], precision[index + 1])
    area = 0.0
    for index in range(1, len(recall)):
        if recall[index] != recall[index - 1]:
            area += (recall[index] - recall[index - 1]) * precision[index]
    return 100 * area


def posetrack_ap(pairs):
    """AP of the 15 joints in the order of POSETRACK15, the seven groups, and Total."""
    scores = [[] for _ in range(NUM_JOINTS)]
    labels = [[] for _ in range(NUM_JOINTS)]
    num_truth = [0] * NUM_JOINTS
    for pair in pairs:
        for true_frame, found_frame in zip(pair.truth.frames, pair.predicted.frames, strict=True):
            if not true_frame.people:
                continue
            truth = cleaned(true_frame.people, true_frame.ignore_regions)
            predicted = cleaned(found_frame.people, true_frame.ignore_regions)
            for true, _ in truth:
                for joint in true:
                    num_truth[joint] += 1
            owner = assignment(predicted, truth) if truth and predicted else [None] * len(predicted)
            for (found, _), column in zip(predicted, owner, strict=True):
                for joint, (_, _, score) in found.items():
                    right = column is not None and is_match(
                        found, truth[column][0], head_length(truth[column][1]), joint
                    )
                    scores[joint].append(score)
                    labels[joint].append(int(right))
    joints = [
        average_precision(scores[joint], labels[joint], num_truth[joint])
        for joint in range(NUM_JOINTS)
    ]
    groups = [
        sum(joints[POSETRACK15.index(name)] for name in group) / len(group) for group in GROUPS
    ]
    known = [value for value in joints if not math.isnan(value)]
    return joints, groups, sum(known) / len(known) if known else math.nan
