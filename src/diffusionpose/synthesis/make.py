"""Data sets of synthetic people in PoseTrack18's layout.

Each clip has three frames, of which the middle one is annotated.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from diffusionpose.data.clips import read_image
from diffusionpose.errors import DataError, UsageError
from diffusionpose.formats.atomic_file import explained, write_text
from diffusionpose.formats.datasets import coco_family
from diffusionpose.formats.text import PIXEL_DECIMALS, box_xywh, json_line, rounded
from diffusionpose.skeleton import POSETRACK15, POSETRACK17, remap
from diffusionpose.synthesis.body import Body
from diffusionpose.synthesis.garments import Garment, read_garment
from diffusionpose.synthesis.motion import Motion, read_bvh
from diffusionpose.synthesis.render import Renderer
from diffusionpose.synthesis.scene import Shot, Stage, make_shots
from diffusionpose.version import __version__

SETTINGS = "synthesis.json"
FEWEST_JOINTS = 10
"""People with fewer joints in the image are not annotated."""
_FEWEST_FRAMES = 4
_JPEG_QUALITY = 92
_SOURCE = 4
"""First digit of ids; PoseTrack uses 1 to 3."""
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class SynthesisOptions:
    """Options of `synthesise`.

    Args:
        motion: Folder of BVH files, searched recursively.
        garments: Folder of MakeHuman garments, searched recursively.
        backgrounds: Folder of photos, searched recursively.
        clips: Number of clips.
        size: Height and width of images in pixels.
        seed: Seed that, together with the index of a clip, determines its content.
        split: Name of the split.

    Raises:
        UsageError: If a value is out of range.
    """

    motion: Path
    garments: Path
    backgrounds: Path
    clips: int = 1000
    size: int = 288
    seed: int = 0
    split: str = "train"

    def __post_init__(self) -> None:
        if self.clips < 1 or self.seed < 0:
            raise UsageError("--clips must be at least 1, and --seed at least 0")
        if not 64 <= self.size <= 2048:
            raise UsageError(f"--size must be between 64 and 2048 pixels, not {self.size}")
        if not self.split.isidentifier():
            raise UsageError(
                f"--split {self.split!r}: must be letters, digits and _, not starting with a digit"
            )


@dataclass(frozen=True)
class Synthesised:
    """Result of a call: numbers of clips created and found, and names of unusable motions."""

    made: int
    found: int
    unusable: tuple[str, ...]


def synthesise(
    out: Path, options: SynthesisOptions, on_clip: Callable[[int], None] = lambda _: None
) -> Synthesised:
    """Create a data set, or complete one: calling again resumes an interrupted run.

    Args:
        out: Folder of the data set.
        options: Assets, size and number of clips.
        on_clip: Called after each clip with the number of clips that exist.

    Raises:
        UsageError: If the folder holds anything else.
        DataError: If motions, garments or photos cannot be used.
        MissingExtraError: If a required package is not installed.
        DiffusionPoseError: If rendering is not available or the folder cannot be written.
    """
    with explained(out):
        is_new = _check_folder(out, options)
        names = [f"synthetic_{number:06d}" for number in range(options.clips)]
        annotations = {
            number: out / "posetrack_data" / options.split / f"{name}.json"
            for number, name in enumerate(names)
        }
        missing = [number for number, path in annotations.items() if not path.exists()]
        if not missing:
            return Synthesised(0, options.clips, ())
        stage, unusable = load_stage(options)
        with closing(Renderer(options.size)) as renderer:
            if is_new:
                # Created late, so that a failing call leaves nothing behind.
                out.mkdir(parents=True, exist_ok=True)
                write_text(out / SETTINGS, _settings(options))
            for done, number in enumerate(missing, options.clips - len(missing) + 1):
                rng = np.random.default_rng((options.seed, number))
                shots = make_shots(stage, renderer, rng)
                folder = f"images/{options.split}/{names[number]}"
                _write_pictures(out / folder, shots)
                # Written last, so that a clip with annotations is complete.
                _write_annotations(annotations[number], folder, number, shots)
                on_clip(done)
    return Synthesised(len(missing), options.clips - len(missing), unusable)


def load_stage(options: SynthesisOptions) -> tuple[Stage, tuple[str, ...]]:
    """Load the assets of scenes.

    Returns:
        The assets, and the names of motions that cannot be used.

    Raises:
        DataError: If a garment or photo is broken, or there is none, or no usable motion.
        MissingExtraError: If `anny` is not installed.
    """
    motions, unusable = _read_motions(_files(options.motion, (".bvh",), "motions (.bvh)"))
    body = Body()
    folders = {file.parent for file in _files(options.garments, (".mhclo",), "garments (.mhclo)")}
    wardrobe: list[Garment] = [
        read_garment(folder, len(body.weights)) for folder in sorted(folders)
    ]
    photos = _files(options.backgrounds, _IMAGES, "photos")
    return Stage(body, wardrobe, motions, [read_image(photo) for photo in photos]), unusable


def _settings(options: SynthesisOptions) -> str:
    """Return the content of the settings file; without the number of clips, which may grow."""
    wanted = {
        "version": __version__,
        # Folder names only, as their location does not affect the result.
        **{name: getattr(options, name).name for name in ("motion", "garments", "backgrounds")},
        **{name: getattr(options, name) for name in ("size", "seed", "split")},
    }
    return json_line(wanted) + "\n"


def _check_folder(out: Path, options: SynthesisOptions) -> bool:
    """Return whether a folder is new, as opposed to holding clips of the same settings.

    Raises:
        UsageError: If it holds anything else.
    """
    target = out / SETTINGS
    if target.exists():
        if target.read_bytes() != _settings(options).encode():
            raise UsageError(
                f"{out} was made with other settings ({target}); choose another folder, or use the "
                "same settings"
            )
        return False
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; choose another folder")
    return True


def _files(folder: Path, endings: tuple[str, ...], what: str) -> list[Path]:
    """Find all files in a folder with given endings, recursively and sorted."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = [
        Path(place) / name
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(endings)
    ]
    if not found:
        raise DataError(f"{folder}: contains no {what}")
    return sorted(found)


def _read_motions(files: Iterable[Path]) -> tuple[list[Motion], tuple[str, ...]]:
    """Read motions; return the usable ones, and the names of the others."""
    motions: list[Motion] = []
    unusable: dict[str, str] = {}
    for file in files:
        try:
            motion = read_bvh(file)
        except DataError as error:
            unusable[file.name] = str(error)
            continue
        if len(motion) < _FEWEST_FRAMES:
            unusable[file.name] = f"{file}: has fewer than {_FEWEST_FRAMES} frames"
        else:
            motions.append(motion)
    if not motions:
        raise DataError(f"no motion can be used; the first: {next(iter(unusable.values()))}")
    return motions, tuple(unusable)


def _write_pictures(folder: Path, shots: list[Shot]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for frame, shot in enumerate(shots):
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _, data = cv2.imencode(".jpg", shot.picture[..., ::-1], quality)
        (folder / f"{frame:06d}.jpg").write_bytes(data.tobytes())


def _write_annotations(path: Path, folder: str, number: int, shots: list[Shot]) -> None:
    first = (_SOURCE * 10**6 + number) * 10**4
    size = shots[0].picture.shape[0]
    images = [
        {
            "id": first + frame, "frame_id": first + frame, "vid_id": path.stem,
            "file_name": f"{folder}/{frame:06d}.jpg", "nframes": len(shots),
            "is_labeled": frame == len(shots) // 2, "width": size, "height": size,
        }
        for frame in range(len(shots))
    ]  # fmt: skip
    key = shots[len(shots) // 2]
    key_id = first + len(shots) // 2
    annotations = [
        {"id": key_id * 100 + person, "image_id": key_id, "category_id": 1, "track_id": person}
        | person_record(joints, box, size)
        for person, (joints, box) in enumerate(zip(key.joints, key.boxes, strict=True))
        if is_inside(joints, size).sum() >= FEWEST_JOINTS
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = coco_family("", map(json_line, images), map(json_line, annotations), POSETRACK17)
    write_text(path, "".join(lines))


def is_inside(joints: np.ndarray, size: int) -> np.ndarray:
    """Return (15,) which of (15, 2) joints lie within the image."""
    return np.all((joints >= 0) & (joints <= size - 1), axis=1)


def person_record(joints: np.ndarray, box: np.ndarray, size: int) -> dict[str, list[float]]:
    """Return the annotation of a person; joints outside the image are missing.

    Args:
        joints: (15, 2) pixels.
        box: xyxy pixels.
        size: Height and width of the image.
    """
    rows = np.column_stack([joints, np.ones(len(joints))]) * is_inside(joints, size)[:, None]
    written = remap(rows, POSETRACK15.joints, POSETRACK17.joints, missing=0.0)
    top, bottom = (joints[POSETRACK15.index(f"head_{end}")] for end in ("top", "bottom"))
    head, half = (top + bottom) / 2, np.linalg.norm(top - bottom) / 2
    return {
        "keypoints": rounded(written, PIXEL_DECIMALS).ravel().tolist(),
        "bbox": box_xywh(np.clip(box, 0, size)),
        "bbox_head": box_xywh(np.concatenate([head - half, head + half])),
        "scores": [],
    }
