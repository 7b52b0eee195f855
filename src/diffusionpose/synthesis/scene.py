"""Scenes: one or two people in front of a photo, with a camera and a light."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from diffusionpose.synthesis.body import Body
from diffusionpose.synthesis.garments import Garment
from diffusionpose.synthesis.motion import Motion
from diffusionpose.synthesis.person import NUM_FRAMES, Person
from diffusionpose.synthesis.render import Renderer

_COMPANY = 0.35
"""Share of scenes with a second person nearby."""
_HIGH, _FROM_ABOVE = 0.25, (20.0, 60.0)
"""Share of scenes seen from above, and the range of camera elevations in degrees."""
_NEAR, _FAR = 0.1, 60.0
_GAMMA = 1.6
"""Gamma of the image; rendering is linear."""


class Stage(NamedTuple):
    """Assets for scenes: `backgrounds` are (height, width, 3) uint8 RGB."""

    body: Body
    wardrobe: Sequence[Garment]
    motions: Sequence[Motion]
    backgrounds: Sequence[np.ndarray]


class Shot(NamedTuple):
    """A rendered frame with annotations.

    Args:
        picture: (size, size, 3) uint8 RGB.
        joints: (people, 15, 2) pixels, including hidden joints and joints outside the image.
        boxes: (people, 4) xyxy pixels around each whole person, including hidden parts.
    """

    picture: np.ndarray
    joints: np.ndarray
    boxes: np.ndarray


def make_shots(stage: Stage, renderer: Renderer, rng: np.random.Generator) -> list[Shot]:
    """Render three consecutive frames of a random scene with static camera and light."""
    people = [_someone(stage, rng, np.zeros(3))]
    if rng.random() < _COMPANY:
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 1.2)
        offset = distance * np.array([np.cos(angle), np.sin(angle), 0.0])
        people.append(_someone(stage, rng, offset))
    view, eye = _camera(people[0].frame(NUM_FRAMES // 2)[2], rng)
    light = rng.normal(size=3) + (0, 0, 0.8) + 0.7 * eye
    light, ambient = light / np.linalg.norm(light), rng.uniform(0.25, 0.75)
    ground = _background(stage.backgrounds, renderer.size, rng)
    # Roughly match the brightness of the photo.
    gain = rng.uniform(0.7, 1.3) * (0.5 + 0.5 * ground.mean() / 128) * (1 + rng.normal(0, 0.06, 3))
    shots = []
    for number in range(NUM_FRAMES):
        parts = [person.frame(number) for person in people]
        drawn = renderer.draw(
            [mesh for meshes, _, _ in parts for mesh in meshes], view, eye, light, ambient
        )
        outlines = [project(outline, view, renderer.size) for _, _, outline in parts]
        shots.append(
            Shot(
                _composed(drawn, ground, gain, rng),
                np.stack([project(joints, view, renderer.size) for _, joints, _ in parts]),
                np.stack([np.concatenate([one.min(0), one.max(0)]) for one in outlines]),
            )
        )
    return shots


def _someone(stage: Stage, rng: np.random.Generator, offset: np.ndarray) -> Person:
    return Person(stage.body, stage.wardrobe, stage.motions, stage.backgrounds, rng, offset)


def project(points: np.ndarray, view: np.ndarray, size: int) -> np.ndarray:
    """Project (n, 3) world points to (n, 2) pixels, with integers at pixel centres."""
    clip = np.column_stack([points, np.ones(len(points))]) @ view.T
    x, y = (clip[:, :2] / clip[:, 3:]).T
    return np.stack([(x + 1) / 2 * size - 0.5, (1 - y) / 2 * size - 0.5], 1)


def _camera(outline: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a camera that sees all (n, 3) points.

    Returns:
        (4, 4) matrix from world to clip space, and (3,) direction to the camera.
    """
    heading = rng.uniform(0, 2 * np.pi)
    degrees = rng.uniform(*_FROM_ABOVE) if rng.random() < _HIGH else rng.normal(8, 12)
    pitch = np.deg2rad(degrees)
    eye = np.array(
        [np.cos(heading) * np.cos(pitch), np.sin(heading) * np.cos(pitch), np.sin(pitch)]
    )
    middle = (outline.min(0) + outline.max(0)) / 2
    place = middle + rng.uniform(3, 8) * eye
    right = np.cross(-eye, (0, 0, 1))
    right /= np.linalg.norm(right)
    roll = np.deg2rad(rng.normal(0, 4))
    axes = np.stack([right, np.cross(right, -eye), eye])
    cosine, sine = np.cos(roll), np.sin(roll)
    axes = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ axes
    seen = (outline - place) @ axes.T
    reach = np.abs(seen[:, :2] / seen[:, 2:]).max() * rng.uniform(1.15, 1.5)
    depth = _FAR - _NEAR
    lens = np.array(
        [
            [1 / reach, 0, 0, 0],
            [0, 1 / reach, 0, 0],
            [0, 0, -(_FAR + _NEAR) / depth, -2 * _FAR * _NEAR / depth],
            [0, 0, -1, 0],
        ]
    )
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = axes, -axes @ place
    return lens @ pose, eye


def _background(photos: Sequence[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """Cut a random (size, size, 3) part of a photo, randomly mirrored and blurred."""
    photo = photos[int(rng.integers(len(photos)))]
    side = int(min(photo.shape[:2]) * rng.uniform(0.5, 1))
    y, x = (int(rng.integers(0, photo.shape[axis] - side + 1)) for axis in (0, 1))
    part = cv2.resize(photo[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return cv2.GaussianBlur(part, (0, 0), rng.uniform(0.5, 2.5)) if rng.random() < 0.5 else part


def _composed(
    drawn: np.ndarray, ground: np.ndarray, gain: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Compose people over a photo with soft edges, and add sensor noise."""
    coverage = drawn[..., 3:]
    colour = np.clip(drawn[..., :3] / np.maximum(coverage, 1e-3), 0, 1) ** (1 / _GAMMA)
    soft = cv2.GaussianBlur(coverage, (0, 0), 0.6)[..., None]
    picture = ground * (1 - soft) + np.clip(255 * colour * gain, 0, 255) * soft
    return np.clip(picture + rng.normal(0, rng.uniform(1, 5), picture.shape), 0, 255).astype(
        np.uint8
    )
