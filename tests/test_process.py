"""Resources that a process may use, and its setup where parts of the system are missing."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusionpose import process
from diffusionpose.batch.workers import default_number
from diffusionpose.process import prepare_process, resident_bytes, usable_cores


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        (None, 8),
        ("max 100000\n", 8),
        ("250000 100000\n", 3),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("of another kind", 8),
        ("1 0", 8),
    ],
)
def test_cores_are_those_of_this_process(monkeypatch, tmp_path, quota, cores):
    """They may be fewer than the machine's: pinned by a queue, or limited by a container."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(process, "_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores() == cores
    assert default_number() == max(1, cores // 2)


def test_systems_without_affinity_have_the_cores_of_the_machine(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(process, "_QUOTA", tmp_path / "cpu.max")
    for known, cores in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda known=known: known)
        assert usable_cores() == cores


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
def test_memory_is_that_of_the_process_and_0_without_one():
    held = bytearray(os.urandom(1)) * 2**27
    assert len(held) < resident_bytes(os.getpid()) < 2**40
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert resident_bytes(ended.pid) == resident_bytes(None) == 0


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_a_system_without_glibc_is_set_up_all_the_same(monkeypatch, error):
    """The loader of Windows does not accept None."""

    def fails(_):
        raise error

    monkeypatch.setenv("GOMP_SPINCOUNT", "1")
    monkeypatch.setattr(ctypes, "CDLL", fails)
    prepare_process()


def test_closed_streams_do_no_harm(made_video, made_boxes, tmp_path):
    """Some services start so. The bundled model is used since transformers would repair stderr."""
    code = "import os, sys; [os.close(n) for n in range(3)]; os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "diffusionpose", "predict", made_video]
    command += ["--boxes", made_boxes, "--out", tmp_path / "out"]
    assert subprocess.run([sys.executable, "-c", code, *map(str, command)]).returncode == 0
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".mp4"}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["models"]])
def test_a_standard_output_without_room_is_one_line(arguments):
    """Short output fails when flushed, long output before."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "diffusionpose", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("diffusionpose: error: cannot write to standard output: ")
    assert done.stderr.count("\n") == 1


def test_a_reader_who_has_gone_is_told_nothing():
    process = subprocess.Popen(
        [sys.executable, "-m", "diffusionpose", "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.communicate()[1] == ""
    assert process.returncode == 1
