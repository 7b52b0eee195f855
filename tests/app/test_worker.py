"""Messages to a visitor about jobs that have finished or failed."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from diffusionpose.app.options import JobOptions
from diffusionpose.app.worker import (
    MAX_TEXT,
    UPLOAD,
    WorkOrder,
    _facts,
    _without_paths,
    predict_upload,
)
from diffusionpose.errors import DiffusionPoseError, UsageError
from diffusionpose.predict_files import Outcome
from diffusionpose.structures import Frame, VideoIssue, VideoVerdict
from diffusionpose.video import VideoWriter

FOLDER = Path("/tmp/diffusionpose-app-x1y2z3") / ("4f" * 16)


def order(folder=FOLDER, name="walk--fast.mp4", **options):
    return WorkOrder(folder, name, JobOptions(**options), "tiny", "cpu")


def verdict(*issues):
    return VideoVerdict(12, 12, Fraction(12, 25), issues)


def test_notes_are_among_the_warnings():
    issue = VideoIssue("VFR", "steps vary", "info")
    facts = _facts(Outcome((), verdict(issue), 0, ("no walk--fast.trc", "word " * 200)))
    assert facts.warnings[:2] == ("VFR: steps vary", "no walk--fast.trc")
    assert facts.warnings[2].endswith("word …")
    assert len(facts.warnings[2]) <= MAX_TEXT
    assert not facts.is_partial


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{FOLDER / UPLOAD}: no video", "walk--fast.mp4: no video"),
        (f"{FOLDER / UPLOAD}: {'long ' * 40}end\nmore", f"walk--fast.mp4: {'long ' * 40}end"),
        (f"{FOLDER}/results/walk--fast.trc is there", "walk--fast.trc is there"),
        (f"cannot make {FOLDER}/results", "cannot make the results"),
        (f"cannot open {FOLDER}", "cannot open the results"),
        ("", "DiffusionPoseError"),
    ],
)
def test_paths_become_names_and_names_stay_whole(text, told):
    assert _without_paths(DiffusionPoseError(text), order()) == told


def test_what_is_too_long_for_a_report_ends_with_a_word():
    told = _without_paths(DiffusionPoseError(f"{FOLDER / UPLOAD}: {'word ' * 200}"), order())
    assert told.startswith("walk--fast.mp4: word ")
    assert told.endswith("word …")
    assert MAX_TEXT - 10 < len(told) <= MAX_TEXT


def test_a_visitor_is_given_no_options_of_the_command_line(tmp_path):
    """The filter needs a higher frame rate than that of the video."""
    with VideoWriter(tmp_path / UPLOAD, 64, 48, rate=Fraction(5)) as writer:
        for index in range(5):
            writer.write(Frame(index, Fraction(index, 5), np.zeros((48, 64, 3), np.uint8)))
    asked = order(tmp_path, smooth="butterworth")
    with pytest.raises(UsageError, match=r"--smooth butterworth:6 .* use a cut-off below") as error:
        predict_upload(asked, lambda _: None)
    told = _without_paths(error.value, asked)
    assert told.startswith("5 frames per second are too few for the Butterworth filter at 6 Hz: ")
    assert "--" not in told.replace(asked.name, "")
