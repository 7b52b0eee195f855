"""Contact sheet of the worst predictions: ground truth and prediction on the image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from diffusionpose.annotations import AnnotatedPerson
from diffusionpose.data.clips import read_image
from diffusionpose.errors import DataError
from diffusionpose.formats.atomic_file import AtomicFile, explained
from diffusionpose.metrics.pairs import VideoPair, matched_people
from diffusionpose.metrics.similarity import object_keypoint_similarity, person_area
from diffusionpose.nn.geometry import crop_affine, crop_window, keypoint_box, transform, warp
from diffusionpose.render import RenderStyle, contact_sheet, draw_poses
from diffusionpose.skeleton import POSETRACK15
from diffusionpose.structures import NO_TRACK, Frame, PersonPose

TILE = (360, 270)
"""(height, width) of a crop in pixels."""
PICTURES = (".png", ".jpg", ".jpeg")
COLUMNS = 5
GREEN = (60, 220, 130)
TRUTH_STYLE = RenderStyle(left=GREEN, right=GREEN, centre=GREEN, score_floor=0.0, score_opaque=0.0)
PREDICTION_STYLE = RenderStyle(score_floor=0.0, score_opaque=0.0)
LEGEND = "truth green; prediction orange (left), blue (right), white; OKS, video, frame below"


@dataclass(frozen=True, eq=False)
class Miss:
    """An annotated person, the matched prediction if there is one, and their OKS."""

    similarity: float
    video: int
    video_name: str
    frame: int
    truth: AnnotatedPerson
    predicted: AnnotatedPerson | None

    @property
    def caption(self) -> str:
        """Text below the tile: OKS, video, frame."""
        return f"{self.similarity:.2f}  {self.video_name}  {self.frame}"


def worst_people(pairs: Sequence[VideoPair], number: int = 20) -> list[Miss]:
    """Find the people with the lowest OKS, worst first; people without a prediction have 0."""
    misses = []
    for at, pair in enumerate(pairs):
        for index, (truth, predicted) in enumerate(pair.frames):
            for person, found in matched_people(truth, predicted, same_people=pair.same_people):
                if not np.isfinite(person.keypoints).any():
                    continue
                alike = (
                    object_keypoint_similarity(
                        found.keypoints, person.keypoints, person_area(person)
                    )
                    if found is not None
                    else 0.0
                )
                misses.append(Miss(alike, at, pair.truth.name, index, person, found))
    return sorted(misses, key=lambda miss: miss.similarity)[:number]


def write_worst(misses: Sequence[Miss], image_of: Callable[[int, int], Path], path: Path) -> None:
    """Write the contact sheet as a PNG or JPEG file, replacing an existing one.

    Args:
        misses: From `worst_people`.
        image_of: Maps indices of video and frame to the image file.
        path: Ends in one of `PICTURES`.

    Raises:
        UsageError: If the file cannot be written.
        DataError: If there is nobody to show, or an image is missing.
    """
    if not misses:
        raise DataError("nobody to show: the ground truth has no people with joints")
    file = AtomicFile(path)
    try:
        frames = [
            Frame(number, Fraction(0), _tile(miss, image_of(miss.video, miss.frame)))
            for number, miss in enumerate(misses)
        ]
        sheet = contact_sheet(
            frames,
            COLUMNS,
            tile_width=TILE[1],
            captions=[miss.caption for miss in misses],
            title=LEGEND,
        )
        encoded, content = cv2.imencode(path.suffix, cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
        assert encoded
        with explained(path):
            file.temporary.write_bytes(content.tobytes())
        file.publish()
    finally:
        file.discard()


def _tile(miss: Miss, file: Path) -> np.ndarray:
    """Crop around a person with both skeletons: (height, width, 3) uint8 RGB."""
    box = keypoint_box(miss.truth.keypoints) if miss.truth.box is None else miss.truth.box
    affine = crop_affine(crop_window(box, TILE), TILE)
    image = warp(read_image(file), affine, TILE)
    for person, style in ((miss.truth, TRUTH_STYLE), (miss.predicted, PREDICTION_STYLE)):
        if person is not None:
            pose = _as_pose(transform(person.keypoints, affine))
            image = draw_poses(image, [pose], POSETRACK15, style=style)
    return image


def _as_pose(points: np.ndarray) -> PersonPose:
    scores = np.isfinite(points[:, 0]).astype(np.float64)
    height, width = TILE
    box = np.array([0.0, 0.0, width, height])
    return PersonPose(NO_TRACK, box, 1.0, 1.0, np.column_stack([points, scores]))
