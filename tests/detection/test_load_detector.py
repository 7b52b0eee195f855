"""Detectors by name, and rejected names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusionpose.detection import load_detector
from diffusionpose.errors import UsageError
from tests.detection.helpers import draw_person


def test_nanodet_is_the_default_and_keeps_to_the_threshold() -> None:
    image = draw_person(480, 640, x=300, feet=440, size=360)
    assert load_detector(None).name == load_detector("nanodet").name == "nanodet"
    strict = load_detector(None, score_threshold=0.99)
    loose = load_detector(None, score_threshold=0.01)
    assert strict.start_score == 0.99
    assert (strict([image])[0].scores >= 0.99).all()
    assert len(loose([image])[0]) > len(strict([image])[0])


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match=r"in \[0, 1\]"):
        load_detector(None, score_threshold=threshold)


@pytest.mark.parametrize("name", ["nanode", "/no/such/folder", "", "a b/c"])
def test_an_unknown_name_says_what_there_is(name: str) -> None:
    with pytest.raises(UsageError, match="nanodet"):
        load_detector(name)


def test_importing_is_light() -> None:
    code = (
        "import sys, diffusionpose.detection, diffusionpose.tracking\n"
        "print([m for m in ('torch', 'transformers', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nothing_phones_home_or_leaves_an_id(tmp_path: Path) -> None:
    """If enabled, onnxruntime's telemetry leaves an id in the folder for temporary files."""
    code = (
        "import numpy as np\n"
        "from diffusionpose.detection import load_detector\n"
        "load_detector(None)([np.zeros((64, 64, 3), np.uint8)])"
    )
    kept = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    subprocess.run([sys.executable, "-c", code], env=kept | {"TMPDIR": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []
