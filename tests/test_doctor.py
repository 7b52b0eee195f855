"""Findings of `doctor` on intact installations, and on faked broken ones."""

import json
import re
import shutil
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from diffusionpose import doctor
from diffusionpose.doctor import Finding, examine


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Fake installed packages, which take precedence over the real ones."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, number, requires=(), code=None):
        info = tmp_path / f"{name.replace('-', '_')}-{number}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {number}"]
        lines += [f"Requires-Dist: {one}" for one in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        if code is not None:
            # Both, so that the import is undone at the end.
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
            monkeypatch.delitem(sys.modules, name)
            (tmp_path / f"{name}.py").write_text(code)

    return install


def checked(monkeypatch, name):
    """Return the findings of one check, as `examine` reports them."""
    monkeypatch.setattr(doctor, "_CHECKS", {name: doctor._CHECKS[name]})
    monkeypatch.setattr(doctor, "EXTRAS", {})
    return list(examine())[2:]


THIS_TORCH = version("torch").partition("+")[0]


def test_a_torchvision_of_another_torch_is_named(packages, monkeypatch):
    packages("torchvision", "0.9.0", ["torch==1.8.0", "numpy"], "raise AssertionError")
    (found,) = checked(monkeypatch, "torchvision")
    assert found.status == "broken"
    assert found.detail == f"0.9.0 is built for torch ==1.8.0, but torch is {version('torch')}"
    assert found.mend == f"pip install torch=={THIS_TORCH} torchvision"


@pytest.mark.parametrize(
    "code",
    [
        'raise RuntimeError("operator torchvision::nms does not exist\\nand more")',
        'raise AttributeError("operator torchvision::nms does not exist")',
    ],
)
def test_a_torchvision_that_does_not_import_is_named(packages, monkeypatch, code):
    packages("torchvision", "0.28.0", [f"torch=={THIS_TORCH}"], code)
    (found,) = checked(monkeypatch, "torchvision")
    assert found.status == "broken"
    assert found.detail.endswith("Error: operator torchvision::nms does not exist")
    assert found.mend == "pip install --force-reinstall --no-deps torchvision"


def test_a_torchvision_that_fits_is_ok(packages, monkeypatch):
    packages("torchvision", "0.28.0", [f"torch=={THIS_TORCH}"], "")
    (found,) = checked(monkeypatch, "torchvision")
    assert (found.status, found.detail) == ("ok", "0.28.0, matches torch")


def test_two_opencvs_are_named_with_what_leaves_one(packages, monkeypatch):
    packages("opencv-python", "4.10.0.84")
    packages("opencv-python-headless", "5.0.0.1")
    (found,) = checked(monkeypatch, "opencv")
    both = "opencv-python opencv-python-headless"
    assert found.status == "broken"
    assert found.detail == f"{both.replace(' ', ' and ')} write into the same folder"
    assert found.mend == f"pip uninstall -y {both} && pip install opencv-python-headless"


def test_one_opencv_is_ok(monkeypatch):
    monkeypatch.setattr(doctor, "_version", {"opencv-python-headless": "5.0.0.1"}.get)
    (found,) = checked(monkeypatch, "opencv")
    assert found.status == "ok"
    assert found.detail.startswith("opencv-python-headless, ")


def test_a_full_disk_and_one_that_may_not_be_written_to(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: str(tmp_path / "full" / "tmp"))
    (tmp_path / "full").mkdir()
    free = {tmp_path / "full": 5 * 2**20}
    usage = lambda path: SimpleNamespace(free=free.get(path, 7 * 2**30))  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: path != tmp_path)
    results, temporary, models = checked(monkeypatch, "disk")
    assert (results.status, results.detail) == ("broken", f"no permission to write to {tmp_path}")
    assert results.mend == "diffusionpose predict VIDEO --out ANOTHER_FOLDER"
    assert (temporary.status, temporary.mend) == ("broken", "export TMPDIR=ANOTHER_FOLDER")
    assert temporary.detail == f"0.0 GiB free for {tmp_path / 'full' / 'tmp'}"
    assert models.detail.startswith("7.0 GiB free")


@pytest.fixture
def no_temporary_folder(monkeypatch, tmp_path):
    """Simulate a container whose disks are all read-only."""
    monkeypatch.setattr(doctor.tempfile, "tempdir", None)
    absent = [str(tmp_path / "absent")]
    monkeypatch.setattr(doctor.tempfile, "_candidate_tempdir_list", lambda: absent)


def test_no_place_for_temporary_files_is_named(monkeypatch, no_temporary_folder):
    results, temporary, models = checked(monkeypatch, "disk")
    assert (results.status, temporary.status, models.status) == ("ok", "broken", "ok")
    assert temporary.mend == "export TMPDIR=ANOTHER_FOLDER"


def test_no_place_for_temporary_files_is_no_fault_of_video(monkeypatch, no_temporary_folder):
    (video, _) = checked(monkeypatch, "video")
    assert video.status == "ok"
    assert "not tried" in video.detail


@pytest.mark.parametrize(
    ("threads", "setting", "status", "mend"),
    [
        (4, None, "ok", ""),
        (4, "4", "ok", ""),
        (2, None, "ok", ""),
        (2, "2", "slow", "unset OMP_NUM_THREADS"),
        (9, "9", "slow", "export OMP_NUM_THREADS=4"),
    ],
)
def test_threads_against_cores(monkeypatch, threads, setting, status, mend):
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    found = doctor._threads(threads, 4)
    assert (found.status, found.mend) == (status, mend)
    assert found.detail == f"{threads} in torch for 4 cores"


@pytest.mark.parametrize(
    ("cuda", "has_driver", "status", "mend"),
    [
        (None, False, "ok", ""),
        (None, True, "slow", "pip install --force-reinstall torch"),
        ("12.9", True, "slow", "nvidia-smi"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_named(monkeypatch, cuda, has_driver, status, mend):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(doctor, "_has_nvidia_driver", lambda: has_driver)
    found = {one.name: one for one in checked(monkeypatch, "torch")}
    assert (found["accelerator"].status, found["accelerator"].mend) == (status, mend)
    assert found["torch"].detail.endswith(f"CUDA {cuda}" if cuda else "without CUDA")


@pytest.mark.parametrize(
    ("half", "end"),
    [(0.9, "900 ms in bfloat16"), (0.5, "500 ms in bfloat16: --precision bfloat16 is faster here")],
)
def test_a_processor_that_is_faster_in_bfloat16_is_named(monkeypatch, half, end):
    monkeypatch.setattr(doctor, "_seconds_a_window", lambda _: (1.0, half))
    (found,) = checked(monkeypatch, "model")
    assert found.detail.startswith("weights as shipped; 1000 ms per window, ")
    assert found.detail.endswith(end)


def test_a_scan_that_was_not_built_is_slow(monkeypatch):
    from diffusionpose.nn import native_scan

    monkeypatch.setattr(native_scan, "is_available", lambda: False)
    (found, *_) = checked(monkeypatch, "selective scan")
    assert found.status == "slow"
    assert found.mend == doctor._reinstall_command()


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        ({"url": "file:///home/me/diffusionpose", "dir_info": {}}, "/home/me/diffusionpose"),
        ({"url": "file:///a%20b", "dir_info": {"editable": True}}, "--editable '/a b'"),
        (
            {"url": "https://host/it.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "git+https://host/it.git",
        ),
        ({"url": "file:///a/diffusionpose.whl", "archive_info": {}}, "SOURCE_FOLDER"),
        (None, "SOURCE_FOLDER"),
    ],
)
def test_the_package_is_installed_anew_from_where_it_came(packages, tmp_path, origin, source):
    """No package index has it."""
    packages("diffusionpose", "0.1.0")
    if origin is not None:
        (tmp_path / "diffusionpose-0.1.0.dist-info/direct_url.json").write_text(json.dumps(origin))
    assert doctor._reinstall_command() == (
        f"pip install --force-reinstall --no-deps --no-cache-dir {source}"
    )


def test_codecs_that_are_missing_are_named(monkeypatch):
    there = doctor._has
    (video, codecs) = checked(monkeypatch, "video")
    assert (video.status, codecs.status) == ("ok", "ok")
    monkeypatch.setattr(doctor, "_has", lambda codec, mode: codec != "av1" and there(codec, mode))
    (_, codecs) = checked(monkeypatch, "video")
    assert (codecs.status, codecs.detail) == ("absent", "cannot read av1")
    monkeypatch.setattr(doctor, "_has", lambda codec, mode: codec != "libx264")
    (video,) = checked(monkeypatch, "video")
    assert video.status == "broken"
    assert video.detail.endswith("lacks libx264")
    assert video.mend.startswith("pip install ")


def test_whatever_a_part_raises_is_one_line_with_a_command(monkeypatch):
    def fails(name):
        raise KeyError("what\nis this")
        yield

    checks = {name: check._replace(run=fails) for name, check in doctor._CHECKS.items()}
    monkeypatch.setattr(doctor, "_CHECKS", checks)
    found = list(examine())
    broken = [one for one in found if one.status == "broken"]
    assert [one.name for one in broken] == list(checks)
    assert all(str(one).endswith(one.mend) and "\n" not in str(one) for one in broken)


def test_every_extra_of_users_is_examined():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    # These serve those who work on this package, and are no part of what it does.
    assert doctor.EXTRAS.keys() == extras.keys() - {"bench", "dev", "docs"}
    for extra, package in doctor.EXTRAS.items():
        assert any(re.match(rf"{package}\b", wanted) for wanted in extras[extra])


def test_extras_are_packages_and_not_folders_of_that_name(monkeypatch, tmp_path):
    (tmp_path / "nothing_of_the_kind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "_CHECKS", {})
    monkeypatch.setattr(doctor, "EXTRAS", {"one": "nothing_of_the_kind", "two": "numpy"})
    one, two = list(examine())[2:]
    assert str(one).endswith("is not installed: pip install 'diffusionpose[one]'")
    assert (two.status, two.detail) == ("ok", f"numpy {version('numpy')}")


@pytest.mark.parametrize("status", ["slow", "absent", "broken"])
def test_no_finding_goes_without_a_command(status):
    with pytest.raises(AssertionError):
        Finding("part", status, "something is wrong")
    assert str(Finding("part", status, "wrong", "mend it")).endswith("wrong: mend it")
