"""Top-down inference on the annotated frames of a data set: boxes in, predicted people out.

A person's clip is the key frame and its neighbours in the video, cropped to the person's box as in
training.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from diffusionpose.annotations import AnnotatedPerson, AnnotatedVideo
from diffusionpose.data.annotated_sets import Clips
from diffusionpose.data.clips import Clip, ClipDataset, ClipRecord, noise_of
from diffusionpose.data.detections import Detections
from diffusionpose.data.posetrack import clipped_boxes, usable_box
from diffusionpose.networks import PoseNetwork
from diffusionpose.nn import heatmaps
from diffusionpose.nn.geometry import transform
from diffusionpose.overlap import ahead
from diffusionpose.skeleton import POSETRACK15, remap

BATCHES_AHEAD = 2


@dataclass(frozen=True, eq=False)
class PersonBox:
    """A box to predict a pose in, and what the prediction inherits from it.

    Args:
        video: Index of the video.
        frame: Index of the frame in the video.
        number: Index of the person or detection in the frame.
        box: xyxy pixels.
        score: Of the box.
        track_id: Given to the predicted person; None if unknown.
    """

    video: int
    frame: int
    number: int
    box: np.ndarray
    score: float = 1.0
    track_id: int | None = None


def true_boxes(videos: Sequence[AnnotatedVideo]) -> list[PersonBox]:
    """Ground-truth boxes of all people with a joint and a box of positive area, as in training."""
    found = []
    for at, video in enumerate(videos):
        for index, frame in enumerate(video.frames):
            for number, person in enumerate(frame.people):
                box = usable_box(person, person.keypoints, frame, video.layout)
                if box is not None:
                    found.append(PersonBox(at, index, number, box, track_id=person.track_id))
    return found


def detected_boxes(videos: Sequence[AnnotatedVideo], detections: Detections) -> list[PersonBox]:
    """Detections in frames with annotated people, clipped to the image like ground-truth boxes.

    Other frames do not count in any metric. Boxes without area after clipping are dropped.
    """
    found = []
    for at, video in enumerate(videos):
        for index, frame in enumerate(video.frames):
            if not frame.people:
                continue
            boxes = detections.boxes_at(frame)
            clipped = clipped_boxes(boxes.boxes.astype(np.float64), frame.size)
            kept = (clipped[:, 2:] > clipped[:, :2]).all(-1)
            found += [
                PersonBox(at, index, number, box, float(score))
                for number, (box, score) in enumerate(
                    zip(clipped[kept], boxes.scores[kept], strict=True)
                )
            ]
    return found


def predict_annotated(
    network: PoseNetwork,
    videos: Sequence[AnnotatedVideo],
    clips: Clips,
    boxes: Sequence[PersonBox],
    *,
    seed: int = 0,
    batch_size: int = 16,
    on_person: Callable[[], None] | None = None,
) -> list[AnnotatedVideo]:
    """Predict a pose for every box.

    Args:
        network: From `load_network`.
        videos: The annotated videos.
        clips: Maps video and frame index to the image files of t-1, t, t+1.
        boxes: The boxes to predict poses in.
        seed: Of the noise, which depends on seed, video, frame and person only, not on the batches.
        batch_size: People per pass.
        on_person: Called after each person.

    Returns:
        The videos with predicted people, each at its box's number in the frame. Numbers without a
        box, of people who cannot be cropped, have a person without points.

    Raises:
        DataError: If an image is missing or broken.
    """
    found: dict[tuple[int, int], dict[int, AnnotatedPerson]] = {}
    records = [_record(one, videos[one.video].name, clips, network) for one in boxes]
    dataset = ClipDataset(records, network.config)
    loader = DataLoader(dataset, batch_size=batch_size)
    with closing(ahead(_batches(loader), BATCHES_AHEAD)) as batches:
        for batch in batches:
            indices = batch["index"].tolist()
            points, scores = _estimate(network, batch, seed)
            for index, xy, values in zip(indices, points, scores, strict=True):
                one = boxes[index]
                person = _person(one, xy, values, network)
                found.setdefault((one.video, one.frame), {})[one.number] = person
                if on_person is not None:
                    on_person()
    return [_with_people(video, at, found) for at, video in enumerate(videos)]


def _batches(loader: DataLoader[Clip]) -> Iterator[dict[str, Any]]:
    yield from loader


def _record(one: PersonBox, video: str, clips: Clips, network: PoseNetwork) -> ClipRecord:
    joints = network.config.skeleton_graph.num_joints
    return ClipRecord(
        frames=clips(one.video, one.frame),
        keypoints=np.full((joints, 2), np.nan),
        box=one.box,
        video=video,
        image_id=one.frame,
        track_id=one.number,
        frame=one.frame,
        number=one.number,
    )


_UNKNOWN = np.full(POSETRACK15.num_joints, np.nan)
_NOBODY = AnnotatedPerson(
    None, np.full((POSETRACK15.num_joints, 2), np.nan), _UNKNOWN, _UNKNOWN, has_points=False
)


def _estimate(
    network: PoseNetwork, batch: dict[str, Any], seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Run the network on a batch of clips.

    Returns:
        Keypoints of each person, (joints, 2) in image pixels, and scores (batch, joints), both in
        the network's joint order.
    """
    images = batch["images"].to(network.device)
    noise = noise_of(batch, network.noise_shape, seed).unsqueeze(1)
    features = network.features(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    maps = network.heatmaps(features, noise.to(network.device))
    points, scores = network.keypoints(maps)
    crop = heatmaps.heatmap_to_crop(points).double().cpu().numpy()
    placed = [transform(xy, to) for xy, to in zip(crop, batch["to_image"].numpy(), strict=True)]
    return placed, scores


def _person(
    one: PersonBox, points: np.ndarray, scores: np.ndarray, network: PoseNetwork
) -> AnnotatedPerson:
    """Build a prediction; the person's score is the mean joint score times the box score."""
    values = remap(
        np.column_stack([points, scores]),
        network.config.skeleton_graph.joints,
        POSETRACK15.joints,
    )
    return AnnotatedPerson(
        track_id=one.track_id,
        keypoints=values[:, :2],
        visible=np.full(len(values), np.nan),
        scores=values[:, 2],
        box=one.box,
        score=float(scores.mean()) * one.score,
    )


def _with_people(
    video: AnnotatedVideo, at: int, found: dict[tuple[int, int], dict[int, AnnotatedPerson]]
) -> AnnotatedVideo:
    frames = []
    for index, frame in enumerate(video.frames):
        people = found.get((at, index), {})
        number = max(len(frame.people), *(n + 1 for n in people), 0)
        frames.append(replace(frame, people=tuple(people.get(n, _NOBODY) for n in range(number))))
    return replace(video, frames=tuple(frames))
