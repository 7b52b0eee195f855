"""Drawing poses: skeletons that read on any background, and contact sheets.

Every person is painted into the copy of a region that just holds it, and blended with the picture through a
mask of opacities: the cost goes with the size of people, not with that of the picture. Shapes are polygons at
sub-pixel places, for OpenCV's lines have whole widths only and its circles no smooth edge at small sizes.
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

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

_SHIFT = 4
"""OpenCV takes places as integers with so many bits after the point."""
_FAR = 2**14
"""Pixels beyond which a place is clipped, so that it fits OpenCV's integers."""
_FONT = cv2.FONT_HERSHEY_DUPLEX
_CAP_POINTS = 9
_DISC_POINTS = 20

# Okabe and Ito's colours, told apart with any colour vision; orange and blue, a little brighter, for the sides.
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
        joint_lightness: How far joints are lighter than their limbs: 0 not at all, 1 white.
        halo: Colour of the outline.
        halo_width: Of the outline, as a share of the limb's width; a pixel at least.
        halo_opacity: Of the outline, relative to what it surrounds.
        score_floor: Joints that score less are not drawn, nor are their limbs.
        score_opaque: From this score on, joints are drawn at full opacity.
        min_opacity: Of a joint at the floor.
        thickness: Width of limbs as a share of the person's size.
        min_thickness: In pixels.
        max_thickness: In pixels.
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
        """The colour of limbs of a side, named as by `Skeleton.side`."""
        return {"left": self.left, "right": self.right}.get(side, self.centre)

    def joint_colour(self, side: str) -> Colour:
        """The colour of joints of a side."""
        red, green, blue = (
            round(channel + self.joint_lightness * (255 - channel))
            for channel in self.limb_colour(side)
        )
        return red, green, blue

    def opacity(self, scores: np.ndarray) -> np.ndarray:
        """Opacity for scores: 0 below the floor, then rising evenly to 1."""
        rise = (scores - self.score_floor) / max(self.score_opaque - self.score_floor, 1e-6)
        shown = self.min_opacity + (1 - self.min_opacity) * np.clip(rise, 0, 1)
        return np.where(scores >= self.score_floor, shown, 0.0)


DEFAULT_STYLE = RenderStyle()


def track_colour(track_id: int) -> Colour:
    """The colour of a track: the same in every frame."""
    return TRACK_COLOURS[track_id % len(TRACK_COLOURS)]


def draw_poses(
    image: np.ndarray,
    people: Iterable[PersonPose],
    skeleton: Skeleton,
    *,
    style: RenderStyle = DEFAULT_STYLE,
) -> np.ndarray:
    """The picture with skeletons, and tags if there are tracks.

    Args:
        image: (height, width, 3) uint8 RGB; left as it is.
        people: With keypoints in this picture's pixels, in the order of `skeleton`.
        skeleton: Joints and limbs.
        style: Colours, sizes, and what to show.

    Returns:
        A new picture.

    Raises:
        ValueError: The picture is not RGB uint8, or keypoints do not fit the skeleton.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected (height, width, 3) uint8, found {image.shape} {image.dtype}")
    out = np.array(image, order="C")
    everybody = list(people)
    for person in everybody:
        if np.shape(person.keypoints) != (skeleton.num_joints, 3):
            raise ValueError(
                f"keypoints are {np.shape(person.keypoints)}, {skeleton.name} has {skeleton.num_joints} joints"
            )
        _draw_skeleton(out, person, skeleton, style)
    tags: list[_Tag] = []
    for person in everybody:  # above all skeletons
        _draw_labels(out, person, skeleton, style, tags)
    return out


# ------------------------------------------------------------------------------------------------- skeletons


class _Stroke(NamedTuple):
    """A limb or joint: its outline and itself as polygons (points, 2) in `_fixed` places, and how it looks."""

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
    # All outlines before all bodies: a limb is not cut by the outline of the next one at their joint.
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
    """Limbs, then joints, each the faintest first, so that the surer lies on top."""
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
    """Places (num_joints, 2), all finite, and opacities (num_joints,), 0 for what is not drawn."""
    keypoints = np.asarray(person.keypoints, np.float64)
    known = np.all(np.isfinite(keypoints), axis=1)
    keypoints = np.where(known[:, None], keypoints, 0.0)
    opacity = np.where(known, style.opacity(keypoints[:, 2]), 0.0)
    return np.clip(keypoints[:, :2], -_FAR, _FAR), opacity


def _faintest_first(opacity: np.ndarray) -> list[int]:
    order = np.argsort(opacity, kind="stable")
    return [int(n) for n in order if opacity[n] > 0]


def _limb_side(skeleton: Skeleton, limb: int) -> str:
    """A limb belongs to the side of either end; one from side to side is central."""
    sides = {skeleton.side(joint) for joint in skeleton.limbs[limb]} - {"centre"}
    return sides.pop() if len(sides) == 1 else "centre"


def _limb_width(person: PersonPose, points: np.ndarray, style: RenderStyle) -> float:
    """Pixels. A person's size is the longer side of the box or of the joints' extent, whichever is less.

    A joint that is far off enlarges the extent, a careless box the box.
    """
    spans = [float(np.ptp(points, axis=0).max())] if len(points) > 1 else []
    box = np.asarray(person.box, np.float64)
    if np.isfinite(box).all():
        spans.append(float((box[2:] - box[:2]).max()))
    wanted = style.thickness * min(spans, default=0.0)
    return min(max(wanted, style.min_thickness), style.max_thickness)


@lru_cache(maxsize=1)
def _disc() -> np.ndarray:
    """(points, 2) on the circle of radius 1."""
    angles = np.arange(_DISC_POINTS) * (2 * np.pi / _DISC_POINTS)
    return np.column_stack([np.cos(angles), np.sin(angles)])


def _capsules(ends: np.ndarray, radius: float) -> np.ndarray:
    """Outlines of all that is within `radius` of lines: (lines, 2, 2) to (lines, points, 2)."""
    start, end = ends[:, 0, None], ends[:, 1, None]
    along = np.arctan2(*(end - start)[..., ::-1].transpose(2, 0, 1))
    turn = along + np.linspace(-np.pi / 2, np.pi / 2, _CAP_POINTS)
    cap = radius * np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    return np.concatenate([end + cap, start - cap], axis=1)


def _window(shapes: Sequence[np.ndarray], size: tuple[int, ...]) -> tuple[slice, slice] | None:
    """Rows and columns of the picture that hold the shapes; None if nothing is inside."""
    if not shapes:
        return None
    points = np.concatenate(shapes) / 2**_SHIFT
    x0, y0 = np.maximum(np.floor(points.min(axis=0)) - 2, 0).astype(int)
    x1, y1 = np.minimum(np.ceil(points.max(axis=0)) + 3, [size[1], size[0]]).astype(int)
    return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None


def _fixed(places: np.ndarray) -> np.ndarray:
    """Places as OpenCV takes them: integers, `_SHIFT` bits of them after the point."""
    return np.rint(places * 2**_SHIFT).astype(np.int32)


def _fill(canvas: np.ndarray, polygon: np.ndarray, colour: Sequence[float]) -> None:
    cv2.fillConvexPoly(canvas, polygon, colour, cv2.LINE_AA, _SHIFT)


def _blend(below: np.ndarray, above: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`above` where the mask is 255, `below` where it is 0; in bytes, twice as fast as in float."""
    weight = cv2.merge((mask, mask, mask))
    kept = cv2.multiply(below, cv2.bitwise_not(weight), scale=1 / 255)
    return cv2.add(kept, cv2.multiply(above, weight, scale=1 / 255))


# ---------------------------------------------------------------------------------------------- tags and boxes


class _Tag(NamedTuple):
    """The middle (x, y) of a tag, and how far it reaches to either side of it."""

    middle: np.ndarray
    reach: np.ndarray


def _draw_labels(
    image: np.ndarray,
    person: PersonPose,
    skeleton: Skeleton,
    style: RenderStyle,
    tags: list[_Tag],
) -> None:
    """The box and the tag, in the colour of the track; the tag is added to those that are there."""
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
    """x0, y0, x1, y1 of the joints that are drawn, else the box; None if there is neither."""
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
    tags: list[_Tag],
) -> None:
    """A pill above the head, kept inside the picture; none for people outside it."""
    x0, y0, x1, y1 = extent
    height, width = image.shape[:2]
    if x1 < 0 or y1 < 0 or x0 >= width or y0 >= height:
        return
    digits = int(np.clip(0.035 * max(x1 - x0, y1 - y0), 8, 24))
    label = _text_mask(text, digits)
    radius, edge = 0.95 * digits, max(1.0, 0.12 * digits)
    half = max(0.0, label.shape[1] / 2 - 0.35 * digits)  # of the pill's straight part
    reach = np.array([half + radius + edge + 2, radius + edge + 2])
    place = np.array(_tag_place(extent, head, reach, (width, height)))
    x, y = middle = _beside_others(_Tag(place, reach), tags, (width, height))
    tags.append(_Tag(middle, reach))
    ends = np.array([[x - half, y], [x + half, y]])
    for grown, fill in ((edge, style.halo), (0.0, colour)):
        _fill(image, _fixed(_capsules(ends[None], radius + grown)[0]), fill)
    _stamp(image, label, x - (label.shape[1] - 1) / 2, y, _readable_on(colour))


def _tag_place(
    extent: np.ndarray,
    head: tuple[np.ndarray, float] | None,
    reach: np.ndarray,
    size: tuple[int, int],
) -> tuple[float, float]:
    """The middle of a tag that needs `reach` (x, y) around it: above the head, or above all joints.

    Where the picture ends above a head, the tag slides down beside it: it must not leap as heads rise and fall.
    """
    x0, y0, x1, _ = extent
    if head is None:
        x, y = (x0 + x1) / 2, y0 - 2 * reach[1]
        return _kept_within(x, reach[0], size[0]), _kept_within(y, reach[1], size[1])
    (x, middle), radius = np.clip(head[0], -_FAR, _FAR), head[1]
    y = _kept_within(middle - radius - reach[1], reach[1], size[1])
    # On an ellipse around the head.
    risen = min(abs(middle - y) / (radius + reach[1]), 1.0)
    aside = (radius + reach[0]) * (1 - risen**2) ** 0.5
    x += aside if x + aside + reach[0] < size[0] else -aside
    return _kept_within(x, reach[0], size[0]), y


def _beside_others(tag: _Tag, others: list[_Tag], size: tuple[int, int]) -> np.ndarray:
    """Where the tag hides no other: moved up, or aside; where it is if the picture has no room."""
    taken = np.array([other.middle for other in others]).reshape(-1, 2)
    room = np.array([other.reach for other in others]).reshape(-1, 2) + tag.reach
    for step in np.array([[0, -1], [1, 0], [-1, 0]]):
        middle = tag.middle
        while (hidden := (np.abs(middle - taken) < room - 1e-6).all(axis=1)).any():
            first = hidden.argmax()
            middle = np.where(step, taken[first] + step * room[first], middle)
        if (tag.reach <= middle).all() and (middle <= np.array(size) - 1 - tag.reach).all():
            return middle
    return tag.middle


def _kept_within(place: float, margin: float, size: int) -> float:
    """The place moved so that `margin` on both sides fits; the middle if it cannot."""
    return min(max(place, margin), size - 1 - margin) if 2 * margin < size else (size - 1) / 2


def _readable_on(colour: Colour) -> Colour:
    red, green, blue = colour
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    return (12, 14, 18) if light > 120 else (255, 255, 255)


@lru_cache(maxsize=1024)
def _text_mask(text: str, height: int) -> np.ndarray:
    """Coverage (uint8) of a line of text whose digits are `height` pixels high; they fill the middle rows.

    Fonts differ between versions of OpenCV, so ink is measured, not asked for.
    """
    scale = height / 21  # near enough: the digits of OpenCV's fonts are about so high at scale 1
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
    """Text in a colour; what lies outside the picture is cut off."""
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
    """Small pictures of frames in rows, with a caption below each: a video at one glance.

    Args:
        frames: At least one; all tiles get the shape of the first picture, others are fitted into it.
        columns: Pictures a row; fewer if there are fewer frames.
        tile_width: Pixels.
        captions: One a frame; index and time if left out.
        title: Above all.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: There are no frames, or no columns.
    """
    pictures = list(frames)
    captions = [_caption(frame) for frame in pictures] if captions is None else captions
    tiles = [(text, frame.image) for text, frame in zip(captions, pictures, strict=True)]
    if not tiles or columns < 1 or tile_width < 1:
        raise ValueError(f"{len(tiles)} frames in {columns} columns of {tile_width} px")
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
    """The picture into the middle of the tile, as large as it fits."""
    scale = min(tile.shape[1] / image.shape[1], tile.shape[0] / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    x, y = (tile.shape[1] - size[0]) // 2, (tile.shape[0] - size[1]) // 2
    tile[y : y + size[1], x : x + size[0]] = cv2.resize(image, size, interpolation=method)
