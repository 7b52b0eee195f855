"""`diffusionpose compare` as users see it: the table, the files, one-line errors."""

import numpy as np
import pytest

from tests.formats.helpers import TEMPORARY
from tests.test_compare import poses_of, swing


@pytest.fixture
def compare(run, monkeypatch, tmp_path):
    """Run `compare` in `tmp_path`, which has a.poses.json and the slower b.poses.json."""
    poses_of(swing(np.linspace(0, 1, 30)), name="a.mp4").save(tmp_path / "a.poses.json")
    poses_of(swing(np.linspace(0, 1, 45)), name="b.mp4").save(tmp_path / "b.poses.json")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run("compare", *arguments)


def test_the_table_and_the_files(compare, tmp_path):
    code, out, err = compare("a.poses.json", "b.poses.json", "--out", "x.csv", "--html", "x.html")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "A: a.mp4, person 1, 30 frames, 0.00 s to 1.16 s"
    assert lines[1] == "B: b.mp4, person 1, 45 frames, 0.00 s to 1.76 s"
    elbow = next(line.split() for line in lines if line.startswith("left elbow"))
    assert float(elbow[2]) < 3
    assert elbow[-2:] == ["99.7", "100.0"]
    assert lines[-2:] == ["x.csv", "x.html"]
    assert (tmp_path / "x.csv").read_text().startswith("time_a,time_b,left_elbow_a")
    assert (tmp_path / "x.html").read_text().endswith("</html>\n")


def test_a_video_does_not_differ_from_itself(compare):
    code, out, _ = compare("a.poses.json", "a.poses.json", "--person-a", 1, "--person-b", 1)
    assert code == 0
    assert out.splitlines()[-1].split() == ["all", "0.0"]


@pytest.mark.parametrize("target", ["--out", "--html"])
def test_files_stay_unless_asked_for_and_sources_always(compare, tmp_path, target):
    (tmp_path / "mine").write_text("mine")
    code, out, err = compare("a.poses.json", "b.poses.json", target, "mine")
    assert (code, out) == (2, "")
    assert (
        err
        == f"diffusionpose: error: mine already exists: choose another {target}, or pass --overwrite\n"
    )
    source = (tmp_path / "b.poses.json").read_bytes()
    (tmp_path / "link").symlink_to("b.poses.json")
    for name in ("b.poses.json", "link"):
        code, _, err = compare("a.poses.json", "b.poses.json", target, name, "--overwrite")
        assert (code, err.count("\n")) == (2, 1)
        assert f"{name} is the source itself: choose another {target}" in err
    assert (tmp_path / "b.poses.json").read_bytes() == source
    assert compare("a.poses.json", "b.poses.json", target, "mine", "--overwrite")[0] == 0
    assert (tmp_path / "mine").read_text() != "mine"


def test_no_file_is_written_if_one_cannot_be(compare, tmp_path):
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    code, out, err = compare(
        "a.poses.json", "b.poses.json", "--out", "x.csv", "--html", "folder", "--overwrite"
    )
    assert (code, out) == (2, "")
    assert "cannot write folder" in err
    assert sorted(tmp_path.iterdir()) == before
    assert not any(TEMPORARY.match(path.name) for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--person-b", "4"], 2, "b.mp4 has no person 4: choose from 1"),
        (["--band", "0"], 2, "--band must be between 0.01 and 1, not 0"),
        (["--band", "nan"], 2, "--band must be between"),
        (["--out", "x", "--html", "x"], 2, "name the same file"),
    ],
)
def test_what_is_wrong_is_one_line(compare, tmp_path, options, code, message):
    found, out, err = compare("a.poses.json", "b.poses.json", *options)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert message in err
    assert not (tmp_path / "x").exists()


def test_what_is_no_result_is_named(compare, tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    for name in ("bad.json", "nothing.json"):
        code, out, err = compare("a.poses.json", name)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert name in err
