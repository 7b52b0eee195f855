"""Keys of work, reuse of results, and removal of a killed process's temporary files."""

from dataclasses import replace
from pathlib import Path

import pytest

from diffusionpose.batch.ledger import LedgerEntry
from diffusionpose.batch.run import BatchReport
from diffusionpose.batch.work import (
    BatchOptions,
    Job,
    PipelineOptions,
    process,
    remove_temporaries,
    weights_of,
)
from diffusionpose.cli_batch import summarize
from diffusionpose.detection import BoxesFile
from diffusionpose.errors import CheckpointError
from diffusionpose.exports import ExportOptions
from diffusionpose.model.pretrained import CONFIG, WEIGHTS, sha256_of
from diffusionpose.postprocess import parse_smoother
from diffusionpose.predict import PosePipeline
from diffusionpose.results import ResultOptions
from tests.video.helpers import CLIPS

OPTIONS = BatchOptions()
JOB = Job(Path("in/walk.mp4"), Path("out"), OPTIONS, "weights")
PIPELINE = [
    {"engine": "torch"},
    {"precision": "bfloat16"},
    {"seed": 1},
    {"num_inference_steps": 2},
    {"num_hypotheses": 2},
    {"flip_test": True},
    {"detect_every": 2},
    {"hold_crops": False},
]
RESULTS = [
    {"video": False},
    {"hide_faces": True},
    {"wanted": ResultOptions(("json", "csv"))},
    {"wanted": ResultOptions(fill_gaps=3)},
    {"wanted": ResultOptions(min_score=0.3)},
    {"wanted": ResultOptions(smoother=parse_smoother("one-euro"))},
    {"wanted": ResultOptions(smoother=parse_smoother("butterworth:4"))},
    {"wanted": ResultOptions(("json", "trc"), export=ExportOptions(1.8))},
    {"wanted": ResultOptions(("json", "trc"), export=ExportOptions(1.7))},
]


def test_every_setting_that_changes_results_changes_the_key():
    jobs = [
        JOB,
        replace(JOB, weights="others"),
        replace(JOB, source=Path("in/run.mp4")),
        *(replace(JOB, options=replace(OPTIONS, pipeline=PipelineOptions(**one))) for one in PIPELINE),
        *(replace(JOB, options=replace(OPTIONS, **one)) for one in RESULTS),
    ]  # fmt: skip
    keys = [job.key("input") for job in jobs] + [JOB.key("other")]
    assert len(set(keys)) == len(keys)


def test_what_does_not_change_results_does_not_change_the_key():
    others = [
        replace(JOB, source=Path("elsewhere/walk.mp4"), out=Path("there"), is_owned=True),
        replace(JOB, before=LedgerEntry("walk.mp4", "ok"), overwrite=True),
        *(
            replace(JOB, options=replace(OPTIONS, pipeline=PipelineOptions(**{name: value})))
            for name, value in {"batch_size": 2, "device": "cpu", "model": "x"}.items()
        ),
        replace(JOB, options=replace(OPTIONS, wanted=ResultOptions(("json", "json")))),
    ]
    assert {job.key("input") for job in others} == {JOB.key("input")}


def test_weights_are_known_by_what_they_hold(tmp_path):
    (tmp_path / "mine").mkdir()
    given = PipelineOptions(model=str(tmp_path / "mine"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        weights_of(given)
    seen = set()
    for name, text in ((CONFIG, "a"), (WEIGHTS, "b"), (WEIGHTS, "c"), (CONFIG, "d")):
        (tmp_path / "mine" / name).write_text(text)
        if (tmp_path / "mine" / WEIGHTS).exists():
            seen.add(weights_of(given))
    assert len(seen) == 3
    (tmp_path / "person.onnx").write_text("e")
    assert weights_of(replace(given, detector=str(tmp_path / "person.onnx"))) not in seen
    assert weights_of(PipelineOptions()) == weights_of(PipelineOptions(detector="nanodet"))
    for model in ("nothing.onnx", "nothing.ONNX"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            weights_of(PipelineOptions(model=model))


@pytest.mark.parametrize("name", ["03_zero_bytes.mp4", "17_text.mp4", "not-there.mp4"])
def test_what_is_no_video_is_rejected_without_a_model(tmp_path, name):
    entry = process(Job(CLIPS / name, tmp_path, OPTIONS, "w"), load=None)
    assert (entry.status, entry.files) == ("rejected", {})
    assert entry.message
    assert name not in entry.message


def test_what_is_done_is_not_done_again(tmp_path):
    source, result = CLIPS / "00_ok.mp4", tmp_path / "00_ok.poses.json"
    result.write_text("poses")
    digest = sha256_of(source)
    job = Job(source, tmp_path, OPTIONS, "w")
    done = LedgerEntry(source.name, "ok", job.key(digest), digest, files={result.name: sha256_of(result)})  # fmt: skip
    assert process(replace(job, before=done), load=None) is done


def nobody_at_all(untrained, tmp_path):
    """Return a loader of a pipeline with an empty boxes file."""
    nobody = tmp_path / "boxes.json"
    nobody.write_text('{"frames": []}')
    found = PosePipeline.from_pretrained(untrained, device="cpu")
    return lambda _: found.with_boxes(BoxesFile.load(nobody))


def test_files_that_cannot_be_made_are_noted_and_the_video_is_ok(untrained, tmp_path, capsys):
    wanted = ResultOptions(("json", "trc"), export=ExportOptions(1.8))
    job = Job(CLIPS / "00_ok.mp4", tmp_path / "out", BatchOptions(wanted=wanted, video=False), "w")
    entry = process(job, nobody_at_all(untrained, tmp_path))
    note = "no trc file was written: nobody has a track id"
    assert (entry.status, entry.message, list(entry.files)) == ("ok", note, ["00_ok.poses.json"])
    summarize(BatchReport((entry,), 0), quiet=False)
    assert capsys.readouterr().err == f"note: 00_ok.mp4: {note}\n"
    summarize(BatchReport((entry,), 0), quiet=True)
    assert capsys.readouterr().err == ""


def test_too_few_frames_a_second_are_rejected(untrained, tmp_path):
    wanted = ResultOptions(smoother=parse_smoother("butterworth:400"))
    job = Job(CLIPS / "00_ok.mp4", tmp_path / "out", BatchOptions(wanted=wanted, video=False), "w")
    entry = process(job, nobody_at_all(untrained, tmp_path))
    assert entry.status == "rejected"
    assert "--smooth butterworth:400 needs more than" in entry.message
    assert not (tmp_path / "out").exists()


def test_another_video_of_the_same_name_does_not_take_the_place_of_results(tmp_path):
    (tmp_path / "00_ok.poses.json").write_text("poses")
    other = LedgerEntry("00_ok.mp4", "ok", "k", "another", files={"00_ok.poses.json": "f"})
    job = Job(CLIPS / "00_ok.mp4", tmp_path, OPTIONS, "w", other, is_owned=True)
    entry = process(job, load=None)
    assert entry.status == "rejected"
    assert "another video of that name" in entry.message


def test_only_temporaries_of_the_named_results_are_removed(tmp_path):
    gone = [".a.poses.json.tmp-01234567", ".a.person3.trc.tmp-01234567", ".a.mp4.tmp-89abcdef"]
    stay = ["a.poses.json", ".b.mp4.tmp-01234567", ".a.b.mp4.tmp-01234567", ".a.mp4.tmp-0", ".a.txt.tmp-01234567"]  # fmt: skip
    for name in (*gone, *stay):
        (tmp_path / name).touch()
    (tmp_path / ".a.openpose.tmp-01234567").mkdir()
    (tmp_path / ".a.openpose.tmp-01234567" / "1.json").touch()
    remove_temporaries(tmp_path, ["a"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)
    remove_temporaries(tmp_path / "not-there", ["a"])
