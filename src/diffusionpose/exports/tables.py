"""Exports of tables and arrays: Parquet, NPZ, and joint angles as CSV."""

import csv
from pathlib import Path

import numpy as np

from diffusionpose.angles import ANGLES, joint_angles
from diffusionpose.poses import VideoPoses
from diffusionpose.structures import NO_TRACK

ANGLE_COLUMNS = ("frame", "time", "person", "track_id", "angle", "degrees")


def person_numbers(poses: VideoPoses) -> np.ndarray:
    """(n,) index of each row among the people of its frame, from 0."""
    first = np.searchsorted(poses.frame_index, poses.frame_index, side="left")
    return np.arange(len(poses.frame_index)) - first


def write_parquet(poses: VideoPoses, path: Path) -> None:
    """Write the rows of the CSV format as Parquet; missing coordinates and track ids are null."""
    import pyarrow as pa
    from pyarrow import parquet

    joints = poses.header.joints
    rows, num_joints = len(poses.frame_index), len(joints)

    def each(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, num_joints)

    tracks = each(poses.track_id)
    places = poses.keypoints.reshape(-1, 2)
    missing = np.isnan(places[:, 0])
    columns = {
        "frame": pa.array(each(poses.frame_index)),
        "time": pa.array(each(poses.time)),
        "person": pa.array(each(person_numbers(poses)), pa.int32()),
        "track_id": pa.array(tracks, mask=tracks == NO_TRACK),
        "joint": pa.DictionaryArray.from_arrays(
            pa.array(np.tile(np.arange(num_joints, dtype=np.int32), rows)), pa.array(joints)
        ),
        "x": pa.array(places[:, 0], mask=missing),
        "y": pa.array(places[:, 1], mask=missing),
        "score": pa.array(poses.keypoint_scores.ravel()),
        "filled": pa.array(poses.filled.ravel()),
    }
    with path.open("wb") as file:  # pyarrow takes names in UTF-8 only
        parquet.write_table(pa.table(columns), file)


def write_npz(poses: VideoPoses, path: Path) -> None:
    """Write the arrays of `VideoPoses` under their names, with joint names and limbs."""
    with path.open("wb") as file:  # given a path, numpy would append a suffix
        np.savez_compressed(
            file,
            joints=np.array(poses.header.joints),
            limbs=np.array(poses.header.limbs).reshape(-1, 2),
            frame_indices=poses.frame_indices,
            frame_times=poses.frame_times,
            frame_index=poses.frame_index,
            track_id=poses.track_id,
            box=poses.box,
            box_score=poses.box_score,
            score=poses.score,
            keypoints=poses.keypoints,
            keypoint_scores=poses.keypoint_scores,
            filled=poses.filled,
        )


def write_angles(poses: VideoPoses, path: Path) -> None:
    """Write a CSV with a row for each frame, person and angle; unknown angles are empty cells."""
    angles = joint_angles(poses.keypoints, poses.header.joints)
    facts = zip(
        poses.frame_index.tolist(),
        poses.time.tolist(),
        person_numbers(poses).tolist(),
        poses.track_id.tolist(),
        angles.tolist(),
        strict=True,
    )
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(ANGLE_COLUMNS)
        for frame, time, person, track, values in facts:
            row = (frame, round(time, 6), person, "" if track == NO_TRACK else track)
            for name, degrees in zip(ANGLES, values, strict=True):
                writer.writerow((*row, name, "" if np.isnan(degrees) else round(degrees, 2)))
