"""Formatting of numbers for people."""

from diffusionpose.formats.text import counted, rounded_score


def test_counts_and_scores_for_people():
    assert [counted(n, "frame") for n in (0, 1, 2)] == ["0 frames", "1 frame", "2 frames"]
    assert str(rounded_score(-0.00001)) == "0.0"
