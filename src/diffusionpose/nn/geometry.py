"""Image geometry: boxes, crop windows, affine maps and flips.

Points are (x, y) with integers at pixel centres; an image of width w spans [-0.5, w - 0.5]. Sizes
are (height, width). An affine map is a (2, 3) float64 matrix acting on column vectors (x, y, 1).
"""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from diffusionpose.skeleton import Skeleton

ENLARGEMENT = 1.25
"""Boxes are enlarged by 25 % before cropping (paper, Problem Formulation)."""

Affine = Float[np.ndarray, "2 3"]
CropWindow = Float[np.ndarray, "4"]
"""Centre x, centre y, width, height in image pixels."""


def crop_window(
    box: Float[np.ndarray, "4"], size: tuple[int, int], enlargement: float = ENLARGEMENT
) -> Float[np.ndarray, "4"]:
    """Enlarge a box, then extend one side to match the aspect ratio of `size`.

    Args:
        box: xyxy in image pixels.
        size: Crop size (height, width).
        enlargement: Factor applied to the sides of the box.

    Returns:
        (centre x, centre y, width, height) in image pixels.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    width, height = max(x2 - x1, 1.0) * enlargement, max(y2 - y1, 1.0) * enlargement
    aspect = size[1] / size[0]
    width, height = max(width, height * aspect), max(height, width / aspect)
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, width, height])


def crop_affine(
    window: Float[np.ndarray, "4"], size: tuple[int, int], rotation: float = 0.0
) -> Affine:
    """Return the affine map from image pixels to crop pixels.

    Args:
        window: (centre x, centre y, width, height) in image pixels; its centre maps to the crop's.
        size: Crop size (height, width).
        rotation: Rotation of the content about the centre, in degrees clockwise on screen.
    """
    centre_x, centre_y, width, _ = (float(v) for v in window)
    scale = size[1] / width
    angle = np.deg2rad(rotation)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.column_stack([linear, middle - linear @ [centre_x, centre_y]])


def invert(affine: Affine) -> Affine:
    """Return the inverse of an affine map."""
    linear = np.linalg.inv(affine[:, :2])
    return np.column_stack([linear, -linear @ affine[:, 2]])


def compose(second: Affine, first: Affine) -> Affine:
    """Return the affine map that applies `first`, then `second`."""
    linear = second[:, :2]
    return np.column_stack([linear @ first[:, :2], linear @ first[:, 2] + second[:, 2]])


def transform(
    points: Float[np.ndarray, "*shape 2"], affine: Affine
) -> Float[np.ndarray, "*shape 2"]:
    """Apply an affine map to points; NaN stays NaN."""
    return points @ affine[:, :2].T + affine[:, 2]


def warp(
    image: UInt8[np.ndarray, "h w c"], affine: Affine, size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Warp an image by an affine map with bilinear sampling; black outside the image.

    If the map shrinks by a factor above 2, the image is first reduced by area averaging, as
    bilinear sampling alone would alias.
    """
    shrink = 1 / np.sqrt(abs(np.linalg.det(affine[:, :2])))
    if shrink > 2:
        factor = int(shrink)
        # Crop to a multiple of the factor, so that the reduced image is the exact block mean.
        height, width = (side - side % factor for side in image.shape[:2])
        if height and width:
            image = cv2.resize(
                image[:height, :width],
                (width // factor, height // factor),
                interpolation=cv2.INTER_AREA,
            )
            # Reduced pixel i covers the source pixels i * factor to (i + 1) * factor - 1.
            shift = (factor - 1) / 2
            up = np.array([[factor, 0, shift], [0, factor, shift]], dtype=np.float64)
            affine = compose(affine, up)
    return cv2.warpAffine(
        np.ascontiguousarray(image), affine, (size[1], size[0]), flags=cv2.INTER_LINEAR
    )


def flip_keypoints(
    keypoints: Float[np.ndarray, "*shape joints channels"], width: int, skeleton: Skeleton
) -> Float[np.ndarray, "*shape joints channels"]:
    """Mirror keypoints in an image of the given width, and swap left and right joints."""
    out = keypoints[..., list(skeleton.flip_permutation), :].copy()
    out[..., 0] = width - 1 - out[..., 0]
    return out


def keypoint_box(
    keypoints: Float[np.ndarray, "joints 2"], factor: float = 1.3
) -> Float[np.ndarray, "4"]:
    """Return the xyxy bounding box of the keypoints that are not NaN, scaled about its centre."""
    low, high = np.nanmin(keypoints, axis=0), np.nanmax(keypoints, axis=0)
    middle, half = (low + high) / 2, (high - low) * factor / 2
    return np.concatenate([middle - half, middle + half])
