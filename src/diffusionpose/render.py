"""Drawing: skeletons that are legible on any background, and contact sheets.

Each person is painted onto a copy of their bounding region and blended through an opacity mask, so
the cost depends on the size of people, not of the image. Shapes are sub-pixel polygons, since OpenCV's
lines have integer widths and its small circles are rough.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from diffusionpose.faces import head_circle
from diffusionpose.skeleton import Skeleton
from diffusionpose.structures import NO_TRACK, Frame, PersonPose
from diffusionpose.tag_places import Tag, place_tag

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

_SHIFT = 4
"""Fractional bits of OpenCV's fixed-point coordinates."""
_FAR = 2**14
"""Coordinates are clipped to this many pixels, so that they fit OpenCV's integers."""
_FONT = cv2.FONT_HERSHEY_DUPLEX
_CAP_POINTS = 9
_DISC_POINTS = 20

# Okabe and Ito's palette for any colour vision, with brighter orange and blue for the sides.
LEFT_ORANGE: Colour = (245, 134, 20)
RIGHT_BLUE: Colour = (60, 160, 240)
CENTRE_WHITE: Colour = (240, 240, 235)
TRACK_COLOURS: tuple[Colour, ...] = (
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (230, 159, 0),
    (213, 94, 0),
    (0, 114, 178),
    (235, 235, 235),
)


@dataclass(frozen=True)
class RenderStyle:
    """How people are drawn.

    Args:
        left: Colour of the person's left side.
        right: Colour of the person's right side.
        centre: Colour of head and neck, and of limbs from side to side.
        joint_lightness: How much lighter joints are than limbs, from 0 (same colour) to 1 (white).
        halo: Colour of the outline.
        halo_width: Width of the outline relative to the limb's width; at least one pixel.
        halo_opacity: Opacity of the outline relative to the limb or joint.
        score_floor: Joints that score less, and their limbs, are not drawn.
        score_opaque: Joints that score at least this are fully opaque.
        min_opacity: Opacity of a joint at `score_floor`.
        thickness: Width of limbs relative to the person's size.
        min_thickness: Minimum width of limbs in pixels.
        max_thickness: Maximum width of limbs in pixels.
        show_tags: Whether to write each person's track id.
        show_boxes: Whether to draw each person's box.
    """

    left: Colour = LEFT_ORANGE
    right: Colour = RIGHT_BLUE
    centre: Colour = CENTRE_WHITE
    joint_lightness: float = 0.45
    halo: Colour = (16, 18, 22)
    halo_width: float = 0.28
    halo_opacity: float = 0.6
    score_floor: float = 0.2
    score_opaque: float = 0.7
    min_opacity: float = 0.25
    thickness: float = 0.014
    min_thickness: float = 1.6
    max_thickness: float = 16.0
    show_tags: bool = True
    show_boxes: bool = False

    def limb_colour(self, side: str) -> Colour:
        """Colour of the limbs of a side, as named by `Skeleton.side`."""
        return {"left": self.left, "right": self.right}.get(side, self.centre)

    def joint_colour(self, side: str) -> Colour:
        """Colour of the joints of a side, as named by `Skeleton.side`."""
        red, green, blue = (
            round(channel + self.joint_lightness * (255 - channel))
            for channel in self.limb_colour(side)
        )
        return red, green, blue

    def opacity(self, scores: np.ndarray) -> np.ndarray:
        """Map scores to opacities: 0 below `score_floor`, then linear up to 1 at `score_opaque`."""
        rise = (scores - self.score_floor) / max(self.score_opaque - self.score_floor, 1e-6)
        shown = self.min_opacity + (1 - self.min_opacity) * np.clip(rise, 0, 1)
        return np.where(scores >= self.score_floor, shown, 0.0)


DEFAULT_STYLE = RenderStyle()


def track_colour(track_id: int) -> Colour:
    """Colour of a track, which is the same in every frame."""
    return TRACK_COLOURS[track_id % len(TRACK_COLOURS)]


def draw_poses(
    image: np.ndarray,
    people: Iterable[PersonPose],
    skeleton: Skeleton,
    *,
    style: RenderStyle = DEFAULT_STYLE,
) -> np.ndarray:
    """Draw skeletons, and tags of people with a track id, on a copy of the image.

    Args:
        image: (height, width, 3) uint8 RGB; not modified.
        people: With keypoints in pixels of this image, in the joint order of `skeleton`.
        skeleton: Joints and limbs.
        style: Colours, sizes, and what to show.

    Returns:
        A new image.

    Raises:
        ValueError: If the image is not uint8 RGB, or keypoints do not fit the skeleton.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected (height, width, 3) uint8, found {image.shape} {image.dtype}")
    out = np.array(image, order="C")
    everybody = list(people)
    for person in everybody:
        if np.shape(person.keypoints) != (skeleton.num_joints, 3):
            raise ValueError(
                f"keypoints of {skeleton.name} must be ({skeleton.num_joints}, 3), not {np.shape(person.keypoints)}"
            )
        _draw_skeleton(out, person, skeleton, style)
    tags: list[Tag] = []
    for person in everybody:  # tags go on top of all skeletons
        _draw_labels(out, person, skeleton, style, tags)
    return out


# ------------------------------------------------------------------------------------------------- skeletons


class _Stroke(NamedTuple):
    """A limb or joint: fixed-point polygons (points, 2) of outline and body, and its look."""

    halo: np.ndarray
    core: np.ndarray
    colour: Colour
    opacity: float


def _draw_skeleton(
    image: np.ndarray, person: PersonPose, skeleton: Skeleton, style: RenderStyle
) -> None:
    strokes = _strokes(person, skeleton, style)
    window = _window([stroke.halo for stroke in strokes], image.shape)
    if window is None:
        return
    rows, columns = window
    region = image[rows, columns]
    origin = _fixed(np.array([columns.start, rows.start]))
    painted, mask = region.copy(), np.zeros(region.shape[:2], np.uint8)
    # All outlines first, so that none cuts through a neighbouring limb at their joint.
    for stroke in strokes:
        outline = stroke.halo - origin
        _fill(painted, outline, style.halo)
        _fill(mask, outline, (stroke.opacity * style.halo_opacity * 255,))
    for stroke in strokes:
        body = stroke.core - origin
        _fill(painted, body, stroke.colour)
        _fill(mask, body, (stroke.opacity * 255,))
    region[:] = _blend(region, painted, mask)


def _strokes(person: PersonPose, skeleton: Skeleton, style: RenderStyle) -> list[_Stroke]:
    """Strokes in drawing order: limbs, then joints, each by increasing opacity."""
    points, opacity = _visible(person, style)
    width = _limb_width(person, points[opacity > 0], style)
    edge = max(1.0, style.halo_width * width)

    ends = np.array(skeleton.limbs, int).reshape(-1, 2)
    limbs, joints = opacity[ends].min(axis=1, initial=1.0), opacity
    limb_halos, limb_cores = (
        _fixed(_capsules(points[ends], radius)) for radius in (width / 2 + edge, width / 2)
    )
    joint_halos, joint_cores = (
        _fixed(points[:, None] + radius * _disc()) for radius in (width + edge, width)
    )
    return [
        _Stroke(limb_halos[n], limb_cores[n], style.limb_colour(_limb_side(skeleton, n)), limbs[n])
        for n in _faintest_first(limbs)
    ] + [
        _Stroke(joint_halos[n], joint_cores[n], style.joint_colour(skeleton.side(n)), joints[n])
        for n in _faintest_first(joints)
    ]


def _visible(person: PersonPose, style: RenderStyle) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (num_joints, 2), all finite, and opacities (num_joints,), 0 if not drawn."""
    keypoints = np.asarray(person.keypoints, np.float64)
    known = np.all(np.isfinite(keypoints), axis=1)
    keypoints = np.where(known[:, None], keypoints, 0.0)
    opacity = np.where(known, style.opacity(keypoints[:, 2]), 0.0)
    return np.clip(keypoints[:, :2], -_FAR, _FAR), opacity


def _faintest_first(opacity: np.ndarray) -> list[int]:
    order = np.argsort(opacity, kind="stable")
    return [int(n) for n in order if opacity[n] > 0]


def _limb_side(skeleton: Skeleton, limb: int) -> str:
    """Side of a limb: that of its ends; `centre` if they are on different sides or on none."""
    sides = {skeleton.side(joint) for joint in skeleton.limbs[limb]} - {"centre"}
    return sides.pop() if len(sides) == 1 else "centre"


def _limb_width(person: PersonPose, points: np.ndarray, style: RenderStyle) -> float:
    """Width of limbs in pixels, proportional to the person's size.

    The size is the longer side of the box or of the joints' extent: the smaller one, as boxes may be
    loose and joints stray.
    """
    spans = [float(np.ptp(points, axis=0).max())] if len(points) > 1 else []
    box = np.asarray(person.box, np.float64)
    if np.isfinite(box).all():
        spans.append(float((box[2:] - box[:2]).max()))
    wanted = style.thickness * min(spans, default=0.0)
    return min(max(wanted, style.min_thickness), style.max_thickness)


@lru_cache(maxsize=1)
def _disc() -> np.ndarray:
    """Polygon (points, 2) of the unit circle."""
    angles = np.arange(_DISC_POINTS) * (2 * np.pi / _DISC_POINTS)
    return np.column_stack([np.cos(angles), np.sin(angles)])


def _capsules(ends: np.ndarray, radius: float) -> np.ndarray:
    """Outlines of points within `radius` of segments: (lines, 2, 2) -> (lines, points, 2)."""
    start, end = ends[:, 0, None], ends[:, 1, None]
    along = np.arctan2(*(end - start)[..., ::-1].transpose(2, 0, 1))
    turn = along + np.linspace(-np.pi / 2, np.pi / 2, _CAP_POINTS)
    cap = radius * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    return np.concatenate([end + cap, start - cap], axis=1)


def _window(shapes: Sequence[np.ndarray], size: tuple[int, ...]) -> tuple[slice, slice] | None:
    """Rows and columns of the image that contain the shapes; None if all are outside."""
    if not shapes:
        return None
    points = np.concatenate(shapes) / 2**_SHIFT
    x0, y0 = np.maximum(np.floor(points.min(axis=0)) - 2, 0).astype(int)
    x1, y1 = np.minimum(np.ceil(points.max(axis=0)) + 3, [size[1], size[0]]).astype(int)
    return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None


def _fixed(places: np.ndarray) -> np.ndarray:
    """Convert coordinates to OpenCV's fixed point with `_SHIFT` fractional bits."""
    return np.rint(places * 2**_SHIFT).astype(np.int32)


def _fill(canvas: np.ndarray, polygon: np.ndarray, colour: Sequence[float]) -> None:
    cv2.fillConvexPoly(canvas, polygon, colour, cv2.LINE_AA, _SHIFT)


def _blend(below: np.ndarray, above: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Alpha-blend `above` over `below` with a uint8 mask; twice as fast as in float."""
    weight = cv2.merge((mask, mask, mask))
    kept = cv2.multiply(below, cv2.bitwise_not(weight), scale=1 / 255)
    return cv2.add(kept, cv2.multiply(above, weight, scale=1 / 255))


# ---------------------------------------------------------------------------------------------- tags and boxes


def _draw_labels(
    image: np.ndarray,
    person: PersonPose,
    skeleton: Skeleton,
    style: RenderStyle,
    tags: list[Tag],
) -> None:
    """Draw the box and the tag in the colour of the track; append the tag to `tags`."""
    tracked = person.track_id != NO_TRACK
    colour = track_colour(person.track_id) if tracked else CENTRE_WHITE
    box = np.asarray(person.box, np.float64)
    if style.show_boxes and np.isfinite(box).all():
        _draw_box(image, np.clip(box, -_FAR, _FAR), colour, style)
    extent = _extent(person, style)
    if style.show_tags and tracked and extent is not None:
        head = head_circle(person, skeleton)
        _draw_tag(image, str(person.track_id), extent, head, colour, style, tags)


def _extent(person: PersonPose, style: RenderStyle) -> np.ndarray | None:
    """Bounds x0, y0, x1, y1 of the drawn joints, else the box; None if there is neither."""
    keypoints = np.asarray(person.keypoints, np.float64)
    shown = np.isfinite(keypoints).all(axis=1) & (keypoints[:, 2] >= style.score_floor)
    points = keypoints[shown, :2] if shown.any() else np.reshape(person.box, (2, 2))
    corners = np.concatenate([points.min(axis=0), points.max(axis=0)])
    return np.clip(corners, -_FAR, _FAR) if np.isfinite(corners).all() else None


def _draw_box(image: np.ndarray, box: np.ndarray, colour: Colour, style: RenderStyle) -> None:
    x0, y0, x1, y1 = _fixed(box).tolist()
    width = max(1, round(min(image.shape[:2]) / 500))
    for line, wide in ((style.halo, width + 2), (colour, width)):
        cv2.rectangle(image, (x0, y0), (x1, y1), line, wide, cv2.LINE_AA, _SHIFT)


def _draw_tag(
    image: np.ndarray,
    text: str,
    extent: np.ndarray,
    head: tuple[np.ndarray, float] | None,
    colour: Colour,
    style: RenderStyle,
    tags: list[Tag],
) -> None:
    """Draw a pill-shaped tag above the head, inside the image; skip people outside the image."""
    x0, y0, x1, y1 = extent
    height, width = image.shape[:2]
    if x1 < 0 or y1 < 0 or x0 >= width or y0 >= height:
        return
    digits = int(np.clip(0.035 * max(x1 - x0, y1 - y0), 8, 24))
    label = _text_mask(text, digits)
    radius, edge = 0.95 * digits, max(1.0, 0.12 * digits)
    half = max(0.0, label.shape[1] / 2 - 0.35 * digits)  # of the pill's straight part
    reach = np.array([half + radius + edge + 2, radius + edge + 2])
    if head is not None:
        head = np.clip(head[0], -_FAR, _FAR), head[1]
    tag = place_tag(extent, head, reach, tags, (width, height))
    tags.append(tag)
    x, y = tag.middle
    ends = np.array([[x - half, y], [x + half, y]])
    for grown, fill in ((edge, style.halo), (0.0, colour)):
        _fill(image, _fixed(_capsules(ends[None], radius + grown)[0]), fill)
    _stamp(image, label, x - (label.shape[1] - 1) / 2, y, _readable_on(colour))


def _readable_on(colour: Colour) -> Colour:
    red, green, blue = colour
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    return (12, 14, 18) if light > 120 else (255, 255, 255)


@lru_cache(maxsize=1024)
def _text_mask(text: str, height: int) -> np.ndarray:
    """Render text as a uint8 coverage mask with vertically centred digits `height` pixels high.

    Fonts differ between versions of OpenCV, so the rendered pixels are measured.
    """
    scale = height / 21  # digits of OpenCV's fonts are about 21 pixels high at scale 1
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    canvas = np.zeros((5 * height, width + 2 * height), np.uint8)
    rule = np.zeros_like(canvas)
    cv2.putText(rule, "0", (height, 3 * height), _FONT, scale, 255, 1, cv2.LINE_AA)
    cv2.putText(canvas, text, (height, 3 * height), _FONT, scale, 255, 1, cv2.LINE_AA)
    digit_rows = np.flatnonzero(rule.max(axis=1) > 100)
    middle, reach = int(digit_rows.sum() / len(digit_rows) + 0.5), height
    inked = np.flatnonzero(canvas.max(axis=0))
    columns = slice(inked[0], inked[-1] + 1) if len(inked) else slice(0, 1)
    return canvas[middle - reach : middle + reach + 1, columns]


def _stamp(image: np.ndarray, mask: np.ndarray, left: float, middle: float, colour: Colour) -> None:
    """Draw a text mask in a colour, cropped to the image."""
    top, left = round(middle) - mask.shape[0] // 2, round(left)
    rows = slice(max(top, 0), min(top + mask.shape[0], image.shape[0]))
    columns = slice(max(left, 0), min(left + mask.shape[1], image.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    cut = mask[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    region = image[rows, columns]
    region[:] = _blend(region, np.full_like(region, colour), cut)


# ---------------------------------------------------------------------------------------------- contact sheets

_PAPER: Colour = (24, 26, 30)
_INK: Colour = (225, 227, 230)


def contact_sheet(
    frames: Iterable[Frame],
    columns: int = 4,
    *,
    tile_width: int = 320,
    captions: Sequence[str] | None = None,
    title: str = "",
) -> np.ndarray:
    """Arrange thumbnails of frames in a grid, with a caption below each.

    Args:
        frames: At least one; all tiles have the aspect ratio of the first frame.
        columns: Tiles per row; fewer if there are fewer frames.
        tile_width: In pixels.
        captions: One per frame; by default its index and time.
        title: Text above the grid.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: If there are no frames, or `columns` or `tile_width` is not positive.
    """
    pictures = list(frames)
    captions = [_caption(frame) for frame in pictures] if captions is None else captions
    tiles = [(text, frame.image) for text, frame in zip(captions, pictures, strict=True)]
    if not tiles or columns < 1 or tile_width < 1:
        raise ValueError(f"cannot tile {len(tiles)} frames in {columns} columns of {tile_width} px")
    height, width = tiles[0][1].shape[:2]
    tile_height = max(1, round(tile_width * height / width))
    gap, digits = max(4, tile_width // 32), max(7, tile_width // 32)
    step_x, step_y = tile_width + gap, tile_height + gap + 3 * digits
    columns = min(columns, len(tiles))
    num_rows = math.ceil(len(tiles) / columns)
    top = gap + (3 * digits if title else 0)
    sheet = np.full((num_rows * step_y + top, columns * step_x + gap, 3), _PAPER, np.uint8)
    if title:
        _stamp(sheet, _text_mask(title, digits), gap, gap + digits, _INK)
    for number, (caption, image) in enumerate(tiles):
        row, column = divmod(number, columns)
        x, y = gap + column * step_x, top + row * step_y
        cell = sheet[y : y + step_y, x : x + tile_width]
        _place(cell[:tile_height], image)
        _stamp(cell, _text_mask(caption, digits), 0, tile_height + 1.5 * digits, _INK)
    return sheet


def _caption(frame: Frame) -> str:
    return f"frame {frame.index}   {float(frame.time):.3f} s"


def _place(tile: np.ndarray, image: np.ndarray) -> None:
    """Scale an image to fit into the tile, and centre it."""
    scale = min(tile.shape[1] / image.shape[1], tile.shape[0] / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    x, y = (tile.shape[1] - size[0]) // 2, (tile.shape[0] - size[1]) // 2
    tile[y : y + size[1], x : x + size[0]] = cv2.resize(image, size, interpolation=method)
