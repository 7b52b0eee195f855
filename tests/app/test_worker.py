"""What a visitor is told of a finished job."""

from fractions import Fraction

from diffusionpose.app.worker import _facts
from diffusionpose.predict_files import Outcome
from diffusionpose.structures import VideoIssue, VideoVerdict


def test_notes_are_among_the_warnings_without_options_of_the_command_line():
    issue = VideoIssue("VFR", "steps vary", "info")
    verdict = VideoVerdict(12, 12, Fraction(12, 25), (issue,))
    facts = _facts(Outcome((), verdict, 0, ("no trc file", "--smooth needs more")))
    assert facts.warnings == ("VFR: steps vary", "no trc file", "smooth needs more")
    assert not facts.is_partial
