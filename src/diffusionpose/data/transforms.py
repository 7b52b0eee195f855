"""Cropping and augmentation of clips, consistent over frames and keypoints.

Images are uint8 RGB. All randomness comes from the generator passed in.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from diffusionpose.config import ModelConfig
from diffusionpose.nn.geometry import (
    compose,
    crop_affine,
    crop_window,
    flip_keypoints,
    invert,
    keypoint_box,
    transform,
    warp,
)
from diffusionpose.recipe import AugmentConfig

Crops = tuple[list[np.ndarray], np.ndarray, np.ndarray]
"""Crops (height, width, 3), keypoints (num_joints, 2) in crop pixels, (2, 3) crop-to-image map."""

_LOWER = ("hip", "knee", "ankle")
_FEWEST_JOINTS = 4
"""Smallest number of labelled joints that must remain visible when a person is cut."""


def plain_clip(
    images: Sequence[np.ndarray], keypoints: np.ndarray, box: np.ndarray, config: ModelConfig
) -> Crops:
    """Crop a clip without augmentation, as in inference."""
    affine = crop_affine(crop_window(box, config.image_size), config.image_size)
    crops = [warp(image, affine, config.image_size) for image in images]
    return crops, transform(keypoints, affine), invert(affine)


def augment_clip(
    images: Sequence[np.ndarray],
    keypoints: np.ndarray,
    box: np.ndarray,
    config: ModelConfig,
    augment: AugmentConfig,
    rng: np.random.Generator,
    *,
    still: bool,
    other: np.ndarray | None = None,
) -> Crops:
    """Crop and augment a training clip, with synthetic motion for stills.

    Args:
        images: Frames t-1, t, t+1 (or the key frame alone).
        keypoints: (num_joints, 2) pixels of the key frame.
        box: xyxy pixels of the key frame.
        config: Sizes and skeleton.
        augment: Kinds, probabilities and strengths of augmentation.
        rng: Source of randomness.
        still: Whether the frames are one image.
        other: Image to cut textured occluders from, if the recipe uses them.
    """
    size = config.image_size
    if augment.truncation and rng.random() < augment.truncation:
        images, keypoints, box = _truncated(images, keypoints, box, rng)
    affine = _random_affine(keypoints, box, config, augment, rng)
    drift = _drift(len(images), size, augment.still_motion if still else 0.0, rng)
    crops = [
        warp(image, compose(motion, affine), size)
        for image, motion in zip(images, drift, strict=True)
    ]
    points = transform(keypoints, affine)
    if rng.random() < augment.flip:
        crops = [np.ascontiguousarray(crop[:, ::-1]) for crop in crops]
        points = flip_keypoints(points, size[1], config.skeleton_graph)
        affine = compose(np.array([[-1.0, 0, size[1] - 1], [0, 1.0, 0]]), affine)
    if rng.random() < augment.occlusion:
        _occlude(crops, points, augment, other, rng)
    crops = _recolour(crops, augment, rng)
    if rng.random() < augment.blur:
        crops = _blurred_clip(crops, augment, rng)
    if augment.exposure and rng.random() < augment.exposure:
        crops = _exposed(crops, rng)
    if augment.compression and rng.random() < augment.compression:
        crops = _compressed(crops, rng)
    return crops, points, invert(affine)


def _random_affine(
    keypoints: np.ndarray,
    box: np.ndarray,
    config: ModelConfig,
    augment: AugmentConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    if rng.random() < augment.half_body:
        box = _half_body_box(keypoints, box, config, rng)
    window = crop_window(box, config.image_size)
    window[:2] += rng.uniform(-1, 1, 2) * augment.shift * window[2:]
    window[2:] *= 1 + rng.uniform(-1, 1) * augment.scale
    turned = rng.random() < augment.rotation_share
    rotation = rng.uniform(-1, 1) * augment.rotation if turned else 0.0
    return crop_affine(window, config.image_size, rotation)


def _truncated(
    images: Sequence[np.ndarray], keypoints: np.ndarray, box: np.ndarray, rng: np.random.Generator
) -> tuple[Sequence[np.ndarray], np.ndarray, np.ndarray]:
    """Simulate a person cut off by an edge of the image: below, at a side or above.

    The part beyond the edge becomes black, its joints unlabelled, and the box ends at the edge. If
    too few joints would remain, nothing is changed.
    """
    axis, is_end = [(1, True), (0, True), (0, False), (1, False)][
        rng.choice(4, p=[0.55, 0.18, 0.18, 0.09])
    ]
    share = rng.uniform(0.35, 0.9)
    low, high = box[axis], box[axis + 2]
    edge = low + share * (high - low) if is_end else high - share * (high - low)
    is_kept = (keypoints[:, axis] < edge) == is_end
    if (is_kept & np.isfinite(keypoints[:, 0])).sum() < _FEWEST_JOINTS:
        return images, keypoints, box
    cut = [image.copy() for image in images]
    first = max(int(np.ceil(edge)), 0)
    lost = slice(first, None) if is_end else slice(0, first)
    for image in cut:
        image[(lost,) if axis == 1 else (slice(None), lost)] = 0
    box = box.copy()
    box[axis + 2 if is_end else axis] = edge
    return cut, np.where(is_kept[:, None], keypoints, np.nan), box


def _half_body_box(
    keypoints: np.ndarray, box: np.ndarray, config: ModelConfig, rng: np.random.Generator
) -> np.ndarray:
    """Return a box around the upper or lower joints; the given box if too few are labelled."""
    joints = config.skeleton_graph.joints
    lower = np.array([joint.endswith(_LOWER) for joint in joints])
    chosen = ~lower if rng.random() < 0.6 else lower
    chosen = chosen & np.isfinite(keypoints[:, 0])
    if chosen.sum() < _FEWEST_JOINTS:
        return box
    return keypoint_box(keypoints[chosen], 1.5)


def _drift(
    num_frames: int, size: tuple[int, int], speed: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draw synthetic motion: an affine map of crop pixels per frame.

    Translation, rotation and scale change at constant rates, with a little camera shake.
    """
    velocity = rng.normal(0, 1, 2) * speed * np.array([size[1], size[0]])
    turn, growth = rng.normal(0, 1) * speed * 40, rng.normal(0, 1) * speed * 0.5
    shake = rng.normal(0, 0.1, (num_frames, 2)) * speed * size[1]
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    maps = []
    for index in range(num_frames):
        step = index - num_frames // 2
        angle = np.deg2rad(turn * step)
        linear = (1 + growth * step) * np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        offset = middle - linear @ middle + velocity * step + (shake[index] if step else 0)
        maps.append(np.column_stack([linear, offset]))
    return maps


def _recolour(
    crops: list[np.ndarray], augment: AugmentConfig, rng: np.random.Generator
) -> list[np.ndarray]:
    """Change brightness, contrast, saturation and tint by one affine map of RGB for all frames."""
    strength = augment.colour
    saturation = 0.0 if rng.random() < augment.grey else 1 + rng.uniform(-1, 1) * strength
    gain = (1 + rng.uniform(-1, 1) * strength) * (1 + rng.uniform(-1, 1, 3) * strength * 0.25)
    grey = np.full((3, 3), 1 / 3)
    matrix = (saturation * np.eye(3) + (1 - saturation) * grey) * gain[:, None]
    pivot = rng.uniform(64, 192)
    bias = pivot * (1 - matrix.sum(1)) + rng.uniform(-1, 1) * strength * 60
    colour = np.column_stack([matrix, bias]).astype(np.float32)
    return [cv2.transform(crop, colour) for crop in crops]


def _exposed(crops: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Apply one gamma to all frames, log-uniform from 1/2 (brighter) to 3 (darker)."""
    gamma = np.exp(rng.uniform(-np.log(2), np.log(3)))
    table = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return [cv2.LUT(crop, table) for crop in crops]


def _compressed(crops: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Reduce resolution and add JPEG artefacts, with the same parameters for all frames."""
    height, width = crops[0].shape[:2]
    factor, quality = rng.uniform(1.5, 4.0), int(rng.integers(15, 70))
    small = (max(round(width / factor), 1), max(round(height / factor), 1))
    out = []
    for crop in crops:
        shrunk = cv2.resize(crop, small, interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", shrunk, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        out.append(cv2.resize(decoded, (width, height)))
    return out


def _blurred_clip(
    crops: list[np.ndarray], augment: AugmentConfig, rng: np.random.Generator
) -> list[np.ndarray]:
    """Blur all frames alike, or independently with half of the key frame's neighbours sharp."""
    if not augment.blur_each or rng.random() >= augment.blur_each:
        return _blurred(crops, augment.defocus, rng)
    key = len(crops) // 2
    return [
        crop if index != key and rng.random() < 0.5 else _blurred([crop], augment.defocus, rng)[0]
        for index, crop in enumerate(crops)
    ]


def _blurred(crops: list[np.ndarray], defocus: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Apply defocus (with probability `defocus`) or motion blur, the same to all frames."""
    if rng.random() < defocus:
        sigma = rng.uniform(0.5, 3.0)
        return [cv2.GaussianBlur(crop, (0, 0), sigma) for crop in crops]
    # An even kernel length would shift the image relative to its keypoints.
    length, angle = 2 * int(rng.integers(1, 8)) + 1, rng.uniform(0, np.pi)
    kernel = np.zeros((length, length), np.float32)
    middle = (length - 1) / 2
    reach = middle * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(np.rint(middle + sign * reach).astype(int).tolist()) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    kernel /= kernel.sum()
    return [cv2.filter2D(crop, -1, kernel) for crop in crops]


def _occlude(
    crops: list[np.ndarray],
    keypoints: np.ndarray,
    augment: AugmentConfig,
    other: np.ndarray | None,
    rng: np.random.Generator,
) -> None:
    """Draw one to three occluders over the person, in place, moving at constant velocity."""
    height, width = crops[0].shape[:2]
    known = keypoints[np.isfinite(keypoints[:, 0])]
    for _ in range(int(rng.integers(1, 4))):
        target = known[rng.integers(len(known))] if len(known) else np.array([width, height]) / 2
        is_noise = other is None or rng.random() >= augment.occluder_texture
        half = rng.uniform(*((0.04, 0.16) if is_noise else (0.05, 0.28)), 2) * width
        velocity = rng.normal(0, augment.occluder_speed, 2) * width
        if other is not None and not is_noise:
            texture = _cutting(other, (height, width), rng)
        else:
            colour = rng.integers(0, 256, 3)
            noise = rng.normal(0, rng.uniform(0, 40), (height, width, 3)) + colour
            texture = np.clip(noise, 0, 255).astype(np.uint8)
        draw = _ellipse if rng.random() < 0.5 else _rectangle
        for index, crop in enumerate(crops):
            centre = target + velocity * (index - len(crops) // 2)
            mask = np.zeros((height, width), np.uint8)
            draw(mask, centre, half)
            np.copyto(crop, texture, where=mask[..., None] > 0)


def _cutting(other: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cut a random part of an image and resize it to the size of a crop."""
    height, width = other.shape[:2]
    side = rng.uniform(0.4, 1.0) * min(height, width * size[0] / size[1])
    window = np.array([side * size[1] / size[0], side])
    low = rng.uniform(0, 1, 2) * np.maximum((width, height) - window, 0)
    x, y = low.astype(int)
    part = other[y : y + max(int(window[1]), 1), x : x + max(int(window[0]), 1)]
    return cv2.resize(part, (size[1], size[0]))


def _ellipse(mask: np.ndarray, centre: np.ndarray, half: np.ndarray) -> None:
    axes = tuple(np.maximum(np.rint(half), 1).astype(int).tolist())
    cv2.ellipse(mask, tuple(np.rint(centre).astype(int).tolist()), axes, 0, 0, 360, 1, -1)


def _rectangle(mask: np.ndarray, centre: np.ndarray, half: np.ndarray) -> None:
    low, high = np.rint(centre - half).astype(int), np.rint(centre + half).astype(int)
    cv2.rectangle(mask, tuple(low.tolist()), tuple(high.tolist()), 1, -1)
