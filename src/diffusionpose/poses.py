"""`VideoPoses`: all poses of one video as arrays, with a row per person and frame."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from numbers import Rational
from typing import Self, overload

import numpy as np

from diffusionpose.formats import counted, read_poses, write_poses
from diffusionpose.formats.text import rounded_frame
from diffusionpose.skeleton import Skeleton
from diffusionpose.structures import (
    NO_TRACK,
    FramePoses,
    PersonPose,
    PosesHeader,
    VideoVerdict,
)


@dataclass(frozen=True, eq=False)
class Track:
    """One person in all frames of a video: a row per frame, NaN in all arrays where absent.

    Args:
        track_id: Of the person.
        frame_indices: (num_frames,) int64.
        times: (num_frames,) seconds.
        box: (num_frames, 4) xyxy pixels.
        box_score: (num_frames,)
        score: (num_frames,)
        keypoints: (num_frames, num_joints, 2) x, y in pixels; also NaN where the joint is missing.
        keypoint_scores: (num_frames, num_joints)
    """

    track_id: int
    frame_indices: np.ndarray
    times: np.ndarray
    box: np.ndarray
    box_score: np.ndarray
    score: np.ndarray
    keypoints: np.ndarray
    keypoint_scores: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """(num_frames,) bool: whether the person was found."""
        return ~np.isnan(self.score)

    @property
    def span(self) -> slice:
        """Slice from the first to the last frame in which the person was found."""
        at = np.flatnonzero(self.present)
        return slice(int(at[0]), int(at[-1]) + 1)

    def __len__(self) -> int:
        return len(self.frame_indices)


@dataclass(frozen=True, eq=False)
class VideoPoses:
    """All poses of a video. Rows are sorted by frame; the order of people in a frame is kept.

    Pixels are those of the displayed image, x to the right, y down, integers at pixel centres.

    Args:
        header: Video, skeleton, model and settings.
        verdict: Outcome of reading the video to its end.
        frame_indices: (num_frames,) int64, increasing; includes frames without people.
        exact_times: Time of each of these frames in seconds, increasing.
        frame_index: (n,) int64, frame of each row; one of `frame_indices`.
        track_id: (n,) int64, `NO_TRACK` where unknown.
        box: (n, 4) xyxy pixels.
        box_score: (n,)
        score: (n,)
        keypoints: (n, num_joints, 2) x, y in pixels, NaN where missing.
        keypoint_scores: (n, num_joints), 0 where missing.
        filled: (n, num_joints) bool, joints interpolated from other frames; by default none.
        cuts: (num_frames,) bool, first frames of new scenes; by default none.

    Raises:
        ValueError: If arrays contradict each other or the header.
    """

    header: PosesHeader
    verdict: VideoVerdict
    frame_indices: np.ndarray
    exact_times: tuple[Fraction, ...]
    frame_index: np.ndarray
    track_id: np.ndarray
    box: np.ndarray
    box_score: np.ndarray
    score: np.ndarray
    keypoints: np.ndarray
    keypoint_scores: np.ndarray
    filled: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    cuts: np.ndarray = field(default_factory=lambda: np.empty(0, bool))

    def __post_init__(self) -> None:
        n, num_joints = len(self.frame_index), len(self.header.joints)
        shapes: dict[str, tuple[type, tuple[int, ...]]] = {
            "frame_indices": (np.int64, (len(self.exact_times),)),
            "frame_index": (np.int64, (n,)),
            "track_id": (np.int64, (n,)),
            "box": (np.float64, (n, 4)),
            "box_score": (np.float64, (n,)),
            "score": (np.float64, (n,)),
            "keypoints": (np.float64, (n, num_joints, 2)),
            "keypoint_scores": (np.float64, (n, num_joints)),
            "filled": (np.bool_, (n, num_joints)),
            "cuts": (np.bool_, (len(self.exact_times),)),
        }
        for name in ("filled", "cuts"):
            if not np.size(getattr(self, name)):
                object.__setattr__(self, name, np.zeros(shapes[name][1], bool))
        for name, (dtype, shape) in shapes.items():
            array = np.asarray(getattr(self, name), dtype)
            if array.shape != shape:
                raise ValueError(f"{name} is {array.shape}, not {shape}")
            object.__setattr__(self, name, array)
        self._check()

    def _check(self) -> None:
        if not all(isinstance(time, Rational) for time in self.exact_times):
            raise ValueError("exact_times are not exact: give Fractions of seconds")
        if (np.diff(self.frame_indices) <= 0).any():
            raise ValueError("frame_indices do not increase")
        if (np.diff(self.frame_times) <= 0).any():
            raise ValueError("exact_times do not increase")
        if (np.diff(self.frame_index) < 0).any():
            raise ValueError("frame_index is not sorted")
        if not np.isin(self.frame_index, self.frame_indices).all():
            raise ValueError("frame_index names a frame that is not in frame_indices")
        missing = np.isnan(self.keypoints)
        if (missing[..., 0] != missing[..., 1]).any():
            raise ValueError("keypoints have only one of x and y: a joint needs both or neither")
        tracked = self.track_id != NO_TRACK
        pairs = np.column_stack([self.frame_index, self.track_id])[tracked]
        if len(np.unique(pairs, axis=0)) != len(pairs):
            raise ValueError("two people of one frame have the same track id")

    # Access ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of frames, not of people."""
        return len(self.frame_indices)

    def __repr__(self) -> str:
        numbers = {"frame": len(self), "track": len(self.track_ids), "pose": len(self.frame_index)}
        counts = ", ".join(counted(number, one) for one, number in numbers.items())
        video, skeleton = self.header.video.name, self.header.skeleton
        return f"VideoPoses({video!r}: {counts}, {skeleton}, {self.verdict.status})"

    @cached_property
    def skeleton(self) -> Skeleton:
        """Skeleton that defines the order of the keypoints."""
        return Skeleton(self.header.skeleton, self.header.joints, self.header.limbs)

    @cached_property
    def frame_times(self) -> np.ndarray:
        """(num_frames,) seconds; see `exact_times` for fractions."""
        return np.array([float(time) for time in self.exact_times], np.float64)

    @property
    def time(self) -> np.ndarray:
        """(n,) time of each row's frame in seconds."""
        return self.frame_times[np.searchsorted(self.frame_indices, self.frame_index)]

    @property
    def track_ids(self) -> tuple[int, ...]:
        """All track ids, in increasing order."""
        return tuple(int(track) for track in np.unique(self.track_id) if track != NO_TRACK)

    def track(self, track_id: int) -> Track:
        """Return one person in all frames.

        Raises:
            KeyError: If there is no such track.
        """
        rows = np.flatnonzero(self.track_id == track_id)
        if track_id == NO_TRACK or not len(rows):
            raise KeyError(f"no track {track_id}; choose from {list(self.track_ids)}")
        at = np.searchsorted(self.frame_indices, self.frame_index[rows])

        def spread(values: np.ndarray) -> np.ndarray:
            out = np.full((len(self), *values.shape[1:]), np.nan)
            out[at] = values[rows]
            return out

        return Track(
            track_id=track_id,
            frame_indices=self.frame_indices,
            times=self.frame_times,
            box=spread(self.box),
            box_score=spread(self.box_score),
            score=spread(self.score),
            keypoints=spread(self.keypoints),
            keypoint_scores=spread(self.keypoint_scores),
        )

    # Frames ---------------------------------------------------------------------------------------

    @overload
    def __getitem__(self, key: int) -> FramePoses: ...

    @overload
    def __getitem__(self, key: slice) -> Self: ...

    def __getitem__(self, key: int | slice) -> FramePoses | Self:
        """Return the frame at a position (not: with an index), or the poses of a slice of frames.

        A slice keeps header and verdict, which describe the whole video.

        Raises:
            IndexError: If there is no frame at that position.
            ValueError: If the slice goes backwards.
        """
        if isinstance(key, slice):
            return self._slice(key)
        try:
            position = range(len(self))[key]
        except IndexError:
            raise IndexError(f"no frame at position {key}: there are {len(self)}") from None
        index = int(self.frame_indices[position])
        first, last = np.searchsorted(self.frame_index, [index, index + 1])
        people = tuple(self._person(row) for row in range(first, last))
        return FramePoses(index, self.exact_times[position], people, bool(self.cuts[position]))

    def _slice(self, key: slice) -> Self:
        if (key.step or 1) < 1:
            raise ValueError("frames cannot be reversed: they are in order of time")
        indices = self.frame_indices[key]
        part = self._of_rows(np.isin(self.frame_index, indices))
        # A cut survives even if its own frame is not in the slice.
        cuts = np.diff(np.cumsum(self.cuts)[key], prepend=0) > 0
        cuts[:1] = False
        return replace(part, frame_indices=indices, exact_times=self.exact_times[key], cuts=cuts)

    def only(self, track_ids: Iterable[int]) -> Self:
        """Keep only these people, in all frames; header and verdict stay the same."""
        return self._of_rows(np.isin(self.track_id, list(track_ids)))

    def _of_rows(self, rows: np.ndarray) -> Self:
        return replace(
            self,
            frame_index=self.frame_index[rows],
            track_id=self.track_id[rows],
            box=self.box[rows],
            box_score=self.box_score[rows],
            score=self.score[rows],
            keypoints=self.keypoints[rows],
            keypoint_scores=self.keypoint_scores[rows],
            filled=self.filled[rows],
        )

    def _person(self, row: int) -> PersonPose:
        return PersonPose(
            track_id=int(self.track_id[row]),
            box=self.box[row].copy(),
            box_score=float(self.box_score[row]),
            score=float(self.score[row]),
            keypoints=np.column_stack([self.keypoints[row], self.keypoint_scores[row]]),
            filled=tuple(np.flatnonzero(self.filled[row]).tolist()),
        )

    def frames(self) -> Iterator[FramePoses]:
        """Iterate over all frames in order."""
        return (self[position] for position in range(len(self)))

    @classmethod
    def from_frames(
        cls, header: PosesHeader, frames: Iterable[FramePoses], verdict: VideoVerdict
    ) -> Self:
        """Build arrays from frames, which must be in order.

        Raises:
            ValueError: If frames contradict each other or the header.
        """
        all_frames = list(frames)
        for frame in all_frames:
            _check_fits(frame, len(header.joints))
        rows = [(frame.index, person) for frame in all_frames for person in frame.people]
        people, num_joints = [person for _, person in rows], len(header.joints)
        keypoints = np.array([person.keypoints for person in people], np.float64)
        keypoints = keypoints.reshape(len(people), num_joints, 3)
        filled = np.zeros((len(people), num_joints), bool)
        for row, person in enumerate(people):
            filled[row, list(person.filled)] = True
        return cls(
            header=header,
            verdict=verdict,
            frame_indices=np.array([frame.index for frame in all_frames], np.int64),
            exact_times=tuple(frame.time for frame in all_frames),
            frame_index=np.array([index for index, _ in rows], np.int64),
            track_id=np.array([person.track_id for person in people], np.int64),
            box=np.array([person.box for person in people], np.float64).reshape(len(people), 4),
            box_score=np.array([person.box_score for person in people], np.float64),
            score=np.array([person.score for person in people], np.float64),
            keypoints=keypoints[..., :2],
            keypoint_scores=keypoints[..., 2],
            filled=filled,
            cuts=np.array([frame.cut for frame in all_frames], bool),
        )

    def rounded(self) -> Self:
        """Round to the precision of files, so that whatever is derived agrees with the files."""
        return self.from_frames(self.header, map(rounded_frame, self.frames()), self.verdict)

    # Files ----------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a `NAME.poses.json`.

        Raises:
            DataError: If the file cannot be read, is not such a file, or contradicts itself.
        """
        return cls.from_frames(*read_poses(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON that `load` reads, rounded to 0.001 px. Same as `to_json`."""
        self.to_json(path)

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write the complete result as JSON; loading and saving it again gives the same bytes."""
        self._write(path, "json")

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a table with a row for each frame, person and joint."""
        self._write(path, "csv")

    def to_posetrack(self, path: str | os.PathLike[str]) -> None:
        """Write a PoseTrack18 file."""
        self._write(path, "posetrack")

    def to_coco(self, path: str | os.PathLike[str]) -> None:
        """Write a COCO keypoints data set."""
        self._write(path, "coco")

    def _write(self, path: str | os.PathLike[str], format_name: str) -> None:
        write_poses(path, format_name, self.header, self.frames(), self.verdict)


def _check_fits(frame: FramePoses, num_joints: int) -> None:
    if not isinstance(frame, FramePoses):
        raise ValueError(
            f"frames must be FramePoses, not {type(frame).__name__}: "
            "PosePipeline.stream yields them as the second item of each pair"
        )
    for person in frame.people:
        found = np.shape(person.keypoints)
        if found != (num_joints, 3):
            raise ValueError(f"frame {frame.index}: keypoints are {found}, not {(num_joints, 3)}")
        if any(not 0 <= joint < num_joints for joint in person.filled):
            raise ValueError(
                f"frame {frame.index}: filled is {person.filled}, but there are {num_joints} joints"
            )
