"""People: a figure with clothes and colours in three frames of a motion."""

import colorsys
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from diffusionpose.synthesis.body import Body
from diffusionpose.synthesis.garments import Garment
from diffusionpose.synthesis.motion import Motion
from diffusionpose.synthesis.render import PATTERNS, Mesh

NUM_FRAMES = 3
_HAT, _BALD = 0.12, 0.08
_CHILD, _OLD = 0.12, 0.18
_PATTERN_SHARES = (0.3, 0.08, 0.06, 0.08, 0.13, 0.35)
_OVERALL = 0.3
"""Share of photo textures that extend down to the feet."""
_CUT = (24, 128)
"""Range of side lengths of photo textures, in pixels of the photo."""
_WAIST = 0.04
"""Height of the waist above the hip bone, in metres."""


class _Layer(NamedTuple):
    """A mesh in the rest pose, and the skinning weights of its vertices."""

    mesh: Mesh
    weights: np.ndarray


class Person:
    """A random person in three frames of a motion.

    Args:
        body: The body model.
        wardrobe: Garments to choose from.
        motions: Recordings to choose from, of at least four frames, of which the first is a rest
            pose and not used.
        photos: (height, width, 3) uint8 RGB images to cut textures from.
        rng: Source of randomness for shape, clothes, colours, motion and frame.
        offset: (3,) offset from the centre of the scene in metres.
    """

    def __init__(
        self,
        body: Body,
        wardrobe: Sequence[Garment],
        motions: Sequence[Motion],
        photos: Sequence[np.ndarray],
        rng: np.random.Generator,
        offset: np.ndarray,
    ) -> None:
        self._body, self._photos, self._offset = body, photos, offset
        gender = rng.random()
        self._figure = body.figure({"gender": gender} | _build(rng))
        self._layers = self._dressed(_outfit(wardrobe, gender, rng), rng)
        motion = motions[int(rng.integers(len(motions)))]
        key = int(rng.integers(2, len(motion) - 1))
        frames = range(key - NUM_FRAMES // 2, key + NUM_FRAMES // 2 + 1)
        self._poses = [body.pose(self._figure, motion, frame) for frame in frames]
        heading = rng.uniform(0, 2 * np.pi)
        cosine, sine = np.cos(heading), np.sin(heading)
        self._turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        # Scale by leg length, so that steps fit the figure.
        unit = body.leg_length(self._figure) / _leg_length(motion)
        self._steps = [(motion.root[frame] - motion.root[key]) * unit for frame in frames]

    def frame(self, number: int) -> tuple[list[Mesh], np.ndarray, np.ndarray]:
        """Return the meshes, (15, 3) joints and (n, 3) outline of a frame in scene coordinates."""
        pose, heads = self._poses[number], self._figure.heads
        shift = self._offset + self._turn @ self._steps[number]

        def placed(points: np.ndarray) -> np.ndarray:
            return points @ self._turn.T + shift

        skinned = [pose.skin(mesh.rest, weights, heads) for mesh, weights in self._layers]
        meshes = [
            replace(layer.mesh, vertices=placed(vertices))
            for layer, vertices in zip(self._layers, skinned, strict=True)
        ]
        joints = self._body.joints(self._figure, pose, skinned[0])
        return meshes, placed(joints), placed(self._body.outline(skinned[0]))

    def _dressed(self, outfit: list[Garment], rng: np.random.Generator) -> list[_Layer]:
        """Return the body without covered faces, and the garments."""
        body, rest = self._body, self._figure.vertices
        covered = np.zeros(len(rest), bool)
        for garment in outfit:
            covered[list(garment.hidden)] = True
        skin = np.array([0.95, 0.75, 0.62]) * rng.uniform(0.35, 0.95) + rng.normal(0, 0.02, 3)
        shown = body.faces[~covered[body.faces].any(1)]
        naked = Mesh(rest, shown, np.tile(skin, (len(rest), 1)), rest)
        layers = [_Layer(naked, body.weights)]
        for garment in outfit:
            vertices = garment.fit(rest)
            if garment.kind == "suit":
                mesh = self._suit(vertices, garment.faces, rng)
            else:
                colour = _hair(rng) if garment.kind == "hair" else _colour(rng, 0.5, 0.03, 0.9)
                mesh = Mesh(vertices, garment.faces, np.tile(colour, (len(vertices), 1)), vertices)
            layers.append(_Layer(mesh, garment.fit_weights(body.weights)))
        return layers

    def _suit(self, vertices: np.ndarray, faces: np.ndarray, rng: np.random.Generator) -> Mesh:
        """Colour a suit: top and bottom separately, the top possibly with a pattern."""
        top, bottom = _colour(rng, 0.9, 0.05, 1.0), _colour(rng, 0.7, 0.03, 0.9)
        if rng.random() < 0.25:
            bottom = top
        if rng.random() < 0.2:
            top = np.full(3, rng.uniform(0.75, 1.0))
        waist = self._figure.heads[self._body.bones.index("Hips"), 2] + _WAIST
        is_top = vertices[:, 2:] > waist
        pattern = str(rng.choice(PATTERNS, p=_PATTERN_SHARES))
        return Mesh(
            vertices, faces, np.where(is_top, top, bottom), vertices,
            pattern=pattern,
            second=_triple(top + rng.uniform(0.4, 1) * (_colour(rng, 0.9, 0.05, 1.0) - top)),
            frequency=rng.uniform(0.5, 3) if pattern == "photo" else rng.uniform(4, 25),
            lowest=-np.inf if pattern == "photo" and rng.random() < _OVERALL else waist,
            cloth=_cut(self._photos, rng) if pattern == "photo" else None,
        )  # fmt: skip


def _build(rng: np.random.Generator) -> dict[str, float]:
    """Draw age and build of a figure; most are adults."""
    lot = rng.random()
    ages = (0.25, 0.45) if lot < _CHILD else (0.75, 1.0) if lot > 1 - _OLD else (0.5, 0.75)
    return {
        "age": rng.uniform(*ages),
        "muscle": rng.uniform(0.2, 0.9),
        "weight": rng.uniform(0.15, 0.95),
        "height": rng.uniform(0.2, 0.8),
        "proportions": rng.uniform(0.2, 0.9),
    }


def _outfit(wardrobe: Sequence[Garment], gender: float, rng: np.random.Generator) -> list[Garment]:
    """Draw a suit and shoes, mostly hair and sometimes a hat, as far as available."""
    other = "male_" if gender < 0.5 else "female_"
    suits = [
        one for one in wardrobe
        if one.kind == "suit" and (not one.name.startswith(other) or "casual" in one.name)
    ]  # fmt: skip
    kinds = {
        kind: [one for one in wardrobe if one.kind == kind] for kind in ("shoes", "hair", "hat")
    }
    shares = {"shoes": 1.0, "hair": 1 - _BALD, "hat": _HAT}
    chosen = [suits[int(rng.integers(len(suits)))]] if suits else []
    for kind, ones in kinds.items():
        if ones and rng.random() < shares[kind]:
            chosen.append(ones[int(rng.integers(len(ones)))])
    return chosen


def _colour(
    rng: np.random.Generator, saturation: float, darkest: float, brightest: float
) -> np.ndarray:
    """Draw an RGB colour (3,) of any hue."""
    return np.array(
        colorsys.hsv_to_rgb(
            rng.random(), rng.uniform(0, saturation), rng.uniform(darkest, brightest)
        )
    )


def _hair(rng: np.random.Generator) -> np.ndarray:
    """Draw a hair colour (3,) from black to blond."""
    light = np.array([1.0, 0.8, 0.5]) * rng.uniform(0.6, 1)
    return np.array([0.06, 0.05, 0.04]) + rng.choice([0.0, 0.12, 0.35, 0.6]) * light


def _cut(photos: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Cut a random square from a photo, with random brightness."""
    photo = photos[int(rng.integers(len(photos)))]
    side = min(int(rng.integers(*_CUT)), *photo.shape[:2])
    y, x = (int(rng.integers(0, photo.shape[axis] - side + 1)) for axis in (0, 1))
    part = photo[y : y + side, x : x + side] * rng.uniform(0.6, 1.4)
    return np.clip(part, 0, 255).astype(np.uint8)


def _triple(colour: np.ndarray) -> tuple[float, float, float]:
    red, green, blue = colour.tolist()
    return red, green, blue


def _leg_length(motion: Motion) -> float:
    """Return the length from hip to ankle in the recording's unit."""
    return sum(float(np.linalg.norm(motion.offsets[bone])) for bone in ("LeftLeg", "LeftFoot"))
