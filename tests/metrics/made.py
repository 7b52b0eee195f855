"""Small annotated videos for the tests of metrics."""

import numpy as np

from diffusionpose.annotations import AnnotatedFrame, AnnotatedPerson, AnnotatedVideo
from diffusionpose.metrics.pairs import VideoPair
from diffusionpose.skeleton import POSETRACK15
from tests.data.made import figure


def person(joints, head_box=None, track_id=None, **fields):
    """A person with joints {name: (x, y)} or {name: (x, y, score)}."""
    values = np.full((15, 3), np.nan)
    for name, place in joints.items():
        values[POSETRACK15.index(name), : len(place)] = place
    return AnnotatedPerson(
        track_id=track_id,
        keypoints=values[:, :2],
        visible=np.full(15, np.nan),
        scores=values[:, 2],
        head_box=None if head_box is None else np.array(head_box, float),
        **fields,
    )


def whole_person(centre, size=100.0, swing=0.0, score=0.5, track_id=None, noise=0.0, seed=0):
    """A stick figure with all joints, boxes and scores."""
    points = figure(centre, size, swing)
    points += np.random.default_rng(seed).normal(0, noise, points.shape) if noise else 0
    head = np.asarray(centre, float) + size * np.array([-0.15, -1.0, 0.15, -0.66]).reshape(2, 2)
    return AnnotatedPerson(
        track_id=track_id,
        keypoints=points,
        visible=np.ones(15),
        scores=np.full(15, score),
        head_box=head.ravel(),
        box=np.concatenate([points.min(0) - 5, points.max(0) + 5]),
        score=score,
    )


def video(name, *frames, regions=()):
    """A video of frames, each a list of people."""
    return AnnotatedVideo(
        name,
        tuple(
            AnnotatedFrame(f"images/{name}/{index:06d}.jpg", tuple(people), True, tuple(regions))
            for index, people in enumerate(frames)
        ),
        "posetrack18",
    )


def pair(truth, predicted, name="one", regions=(), **fields):
    """A pair of videos from lists of frames."""
    return VideoPair(video(name, *truth, regions=regions), video(name, *predicted), **fields)
