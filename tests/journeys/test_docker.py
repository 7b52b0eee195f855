"""Checks of the Dockerfiles without building them; `make lint-docker` checks more."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.journeys.doc_blocks import ROOT

FILES = sorted((ROOT / "docker").glob("Dockerfile*"))


def instructions(path):
    """Return (name, argument) in order, with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def test_there_is_one_for_the_cpu_and_one_for_cuda():
    assert [path.name for path in FILES] == ["Dockerfile", "Dockerfile.cuda"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_image_is_small_pinned_and_nobodys_root(path):
    steps = instructions(path)
    bases = [argument for name, argument in steps if name == "FROM"]
    assert len(bases) == 2
    assert all(re.match(r"[\w/.-]+:(?!latest)[\w.-]+", base) for base in bases)
    last = steps[max(at for at, (name, _) in enumerate(steps) if name == "FROM") :]
    assert [argument for name, argument in last if name == "USER"][-1] not in ("root", "0")
    assert not any(name == "ADD" for name, _ in steps)
    for name, argument in steps:
        if name == "RUN" and "apt-get" in argument:
            assert argument.endswith("rm -rf /var/lib/apt/lists/*")
            assert "--no-install-recommends" in argument
    assert not any(re.search(r"\b(g\+\+|build-essential)\b", argument) for _, argument in last)
    assert last[-2] == ("ENTRYPOINT", '["/opt/diffusionpose/bin/diffusionpose"]')


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_is_there_and_not_ignored(path):
    kept = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for name, argument in instructions(path):
        if name == "COPY" and not argument.startswith("--from"):
            sources = argument.split()[:-1]
            assert set(sources) <= kept
            assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path):
    beside = Path(sys.executable).with_name("hadolint")
    linter = str(beside) if beside.exists() else shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed: make lint-docker")
    done = subprocess.run([linter, path], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
