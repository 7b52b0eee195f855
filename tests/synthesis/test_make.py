import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from diffusionpose.cli import app
from diffusionpose.data.posetrack import load_posetrack
from diffusionpose.errors import DataError, UsageError
from diffusionpose.skeleton import POSETRACK15
from diffusionpose.synthesis import make, scene
from diffusionpose.synthesis.make import SynthesisOptions, load_stage, person_record, synthesise
from diffusionpose.synthesis.render import Mesh, Renderer
from diffusionpose.synthesis.scene import Shot, make_shots
from tests.synthesis.made import bvh, garment, photos

SIZE = 96


@pytest.fixture
def sources(tmp_path):
    """Folders of motions and photos as users have them; no garments."""
    folder = tmp_path / "sources"
    (folder / "motion").mkdir(parents=True)
    bvh(folder / "motion" / "a.bvh")
    garment(folder / "garments" / "suit01", "0\n1\n2\n3")
    photos(folder / "photos")
    return folder


def options(sources, **changes):
    folders = [sources / name for name in ("motion", "garments", "photos")]
    return SynthesisOptions(*folders, **({"clips": 3, "size": SIZE} | changes))


class Drawing:
    """Stands for what needs OpenGL and a model of bodies: coloured noise with two people at drawn places."""

    def __init__(self, monkeypatch):
        self.calls = self.num_closed = 0
        monkeypatch.setattr(make, "load_stage", lambda options: (None, ("b.bvh",)))
        monkeypatch.setattr(make, "Renderer", lambda size: self)
        monkeypatch.setattr(make, "make_shots", self.shots)

    def shots(self, stage, renderer, rng):
        self.calls += 1
        joints = rng.uniform(10, SIZE - 10, (2, 15, 2))
        joints[1, :8] = -5
        boxes = np.array([[5.0, 6, 80, 90], [-20, 10, 50, 120]])
        picture = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        return [Shot(picture, joints + frame, boxes) for frame in range(3)]

    def close(self):
        self.num_closed += 1


def test_a_data_set_that_the_loader_takes(tmp_path, sources, monkeypatch):
    Drawing(monkeypatch)
    out = tmp_path / "out"
    done = synthesise(out, options(sources, split="val"))
    assert (done.made, done.found, done.unusable) == (3, 0, ("b.bvh",))
    records = load_posetrack(out, "val")
    # The second person of each has seven joints in the picture, too few.
    assert len(records) == 3
    for record in records:
        assert [path.name for path in record.frames] == ["000000.jpg", "000001.jpg", "000002.jpg"]
        assert cv2.imread(str(record.frames[0])).shape == (SIZE, SIZE, 3)
        np.testing.assert_allclose(record.box, [5, 6, 80, 90])
    rng = np.random.default_rng((0, 2))
    expected = rng.uniform(10, SIZE - 10, (2, 15, 2))[0] + 1
    np.testing.assert_allclose(records[2].keypoints, expected, atol=1e-3)


def test_joints_beyond_the_picture_are_missing_and_boxes_end_with_it():
    joints = np.tile([[40.0, 30.0]], (15, 1))
    joints[POSETRACK15.index("left_wrist")] = (40, SIZE)
    joints[POSETRACK15.index("head_top")] = (40, 20)
    record = person_record(joints, np.array([-4.0, 5, 50, 200]), SIZE)
    rows = np.reshape(record["keypoints"], (17, 3))
    assert rows[:, 2].sum() == 14
    assert record["bbox"] == [0, 5, 50, SIZE - 5]
    assert record["bbox_head"] == [35, 20, 10, 10]


def test_a_call_goes_on_where_the_last_one_ended(tmp_path, sources, monkeypatch):
    drawing, out = Drawing(monkeypatch), tmp_path / "out"

    def stop(number):
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(out, options(sources), on_clip=stop)
    assert drawing.num_closed == 1
    told = []
    done = synthesise(out, options(sources), on_clip=told.append)
    assert (done.made, done.found, told, drawing.calls) == (1, 2, [3], 3)
    nothing = synthesise(out, options(sources))
    assert (nothing.made, nothing.found, drawing.calls) == (0, 3, 3)
    more = synthesise(out, options(sources, clips=4))
    assert (more.made, more.found) == (1, 3)
    whole = synthesise(tmp_path / "whole", options(sources, clips=4))
    assert whole.made == 4
    for path in (tmp_path / "whole").rglob("*.jp*g"):
        twin = out / path.relative_to(tmp_path / "whole")
        assert twin.read_bytes() == path.read_bytes()
    for path in (out / "posetrack_data" / "train").iterdir():
        assert path.read_text() == (tmp_path / "whole/posetrack_data/train" / path.name).read_text()


def test_folders_of_something_else_are_left_alone(tmp_path, sources, monkeypatch):
    Drawing(monkeypatch)
    out = tmp_path / "out"
    synthesise(out, options(sources))
    with pytest.raises(UsageError, match="made with other settings"):
        synthesise(out, options(sources, seed=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        synthesise(tmp_path / "full", options(sources))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["a.txt"]
    (out / make.SETTINGS).write_text("{")
    with pytest.raises(UsageError, match="made with other settings"):
        synthesise(out, options(sources))


@pytest.mark.parametrize(
    "changes", [{"clips": 0}, {"size": 32}, {"seed": -1}, {"split": "a/b"}, {"split": ""}]
)
def test_settings_that_cannot_be(sources, changes):
    with pytest.raises(UsageError, match="--"):
        options(sources, **changes)


def test_motions_that_cannot_be_used(sources):
    folder = sources / "motion"
    (folder / "b.bvh").write_text("nothing")
    bvh(folder / "c.bvh", num_frames=3)
    motions, unusable = make._read_motions(sorted(folder.iterdir()))
    assert ([motion.name for motion in motions], unusable) == (["a.bvh"], ("b.bvh", "c.bvh"))
    (folder / "a.bvh").unlink()
    with pytest.raises(DataError, match=r"no motion can be used; .*b\.bvh: not a BVH file"):
        load_stage(options(sources))


@pytest.mark.parametrize("name", ["motion", "garments", "photos"])
def test_folders_that_are_not_there(tmp_path, sources, name):
    (sources / name).rename(tmp_path / "elsewhere")
    if name != "motion":
        pytest.importorskip("anny")
    with pytest.raises(DataError, match=f"{name}: no such folder"):
        synthesise(tmp_path / "out", options(sources))
    assert not (tmp_path / "out").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path, sources, monkeypatch):
    monkeypatch.setitem(sys.modules, "anny", None)
    folders = [f"--{name}={sources / where}" for name, where in
               (("motion", "motion"), ("garments", "garments"), ("backgrounds", "photos"))]  # fmt: skip
    result = CliRunner().invoke(app, ["data", "synth", str(tmp_path / "out"), *folders])
    assert result.exit_code != 0
    assert "anny" in str(result.exception)


def _assets():
    """Folders of real motions and garments, from the environment: they are too large to be made here."""
    found = [os.environ.get(f"DIFFUSIONPOSE_{name}") for name in ("MOTION", "GARMENTS")]
    if None in found:
        pytest.skip("set DIFFUSIONPOSE_MOTION and DIFFUSIONPOSE_GARMENTS to folders of such files")
    return [Path(str(one)) for one in found]


@pytest.mark.slow
def test_people_are_where_their_joints_are(sources, monkeypatch):
    """Of people alone in their scene: what is drawn covers their joints, and the same seed draws the same."""
    pytest.importorskip("anny")
    pytest.importorskip("moderngl")
    motion, garments = _assets()
    stage, _ = load_stage(SynthesisOptions(motion, garments, sources / "photos"))
    renderer = Renderer(192)
    monkeypatch.setattr(scene, "_COMPANY", 0.0)
    covered = []
    for seed in range(10):
        first, again = (make_shots(stage, renderer, np.random.default_rng(seed)) for _ in range(2))
        for shot, twin in zip(first, again, strict=True):
            assert np.array_equal(shot.picture, twin.picture)
            assert np.array_equal(shot.joints, twin.joints)
        with monkeypatch.context() as patch:
            # The drawing alone, in the place of the picture.
            patch.setattr(scene, "_composed", lambda drawn, *_: drawn[..., 3])
            shots = make_shots(stage, renderer, np.random.default_rng(seed))
        for shot in shots:
            joints = shot.joints[0]
            x0, y0, x1, y1 = shot.boxes[0]
            assert ((joints > (x0 - 1, y0 - 1)) & (joints < (x1 + 1, y1 + 1))).all()
            rows, columns = np.nonzero(shot.picture)
            np.testing.assert_allclose([columns.min(), rows.min()], [x0, y0], atol=12)
            x, y = np.rint(joints).astype(int).T
            covered.append(shot.picture[y, x] > 0.5)
    assert np.mean(covered) > 0.97
    assert np.mean(covered, axis=0).min() > 0.85


@pytest.mark.slow
def test_cloth_from_a_photo_has_its_colours_and_repeats_without_seams():
    pytest.importorskip("moderngl")
    renderer = Renderer(64)
    corners = np.array([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]])
    # From bright red on the left to dark on the right.
    cloth = np.zeros((8, 8, 3), np.uint8)
    cloth[..., 0] = np.linspace(250, 60, 8)
    mesh = Mesh(
        corners, np.array([[0, 1, 2], [0, 2, 3]]), np.ones((4, 3)), corners,
        pattern="photo", frequency=1.0, cloth=cloth,
    )  # fmt: skip
    view = np.eye(4)[[0, 2, 1, 3]]
    ahead = np.array([0.0, -1, 0])
    drawn = renderer.draw([mesh], view, ahead, ahead, 0.5)
    renderer.close()
    assert (drawn[..., 3] == 1).all()
    assert (drawn[..., 1:3] == 0).all()
    # Two repeats of tile and mirror image from edge to edge: bright, dark, bright, dark, bright.
    row = drawn[..., 0].mean(0)
    assert row[[0, 32, 63]].min() > 2 * row[[16, 48]].max()
    assert np.abs(np.diff(row)).max() < 0.2
