"""Whole batches with simulated work: what is kept, repeated, and never replaced."""

import json

import pytest

from diffusionpose.batch.ledger import LEDGER
from diffusionpose.batch.run import BatchPlan, run_batch
from diffusionpose.batch.work import BatchOptions, PipelineOptions
from diffusionpose.errors import UsageError
from tests.batch.stubs import made, work


@pytest.fixture
def plan(tmp_path):
    """Make a batch of three "videos", one of which kills its process."""
    made(tmp_path / "in", a="fine", b="die", c="good")
    return BatchPlan([tmp_path / "in"], tmp_path / "out", BatchOptions(), 1)


def run(plan):
    return run_batch(plan, plan.videos(), work=work)


def lines(plan):
    return [json.loads(line) for line in (plan.out / LEDGER).read_text().splitlines()]


def test_what_is_done_is_kept_and_what_is_not_is_tried_again(plan, tmp_path):
    first = run(plan)
    assert first.counts == {"ok": 2, "crashed": 1}
    assert [entry.name for entry in first.not_ok] == ["b.mp4"]
    assert [(line["name"], line["status"]) for line in lines(plan)] == [
        (f"{stem}.mp4", status) for stem, end in (("a", "ok"), ("b", "crashed"), ("c", "ok"))
        for status in ("started", end)
    ]  # fmt: skip
    (tmp_path / "in" / "b.mp4").write_text("mended")
    (plan.out / "c.poses.json").write_text("touched")
    (plan.out / ".c.poses.json.tmp-01234567").touch()
    again = run(plan)
    assert (again.counts, again.num_kept) == ({"ok": 3}, 1)
    assert again.entries[0] == first.entries[0]
    assert (plan.out / "c.poses.json").read_text().strip() == "good"
    assert {path.name for path in plan.out.iterdir() if path.name[0] != "."} == {
        LEDGER, "a.poses.json", "b.poses.json", "c.poses.json"
    }  # fmt: skip
    with (plan.out / LEDGER).open("a") as file:
        file.write('{"name": "a.mp4", "sta')
    assert run(plan).num_kept == 3
    assert [line["name"] for line in lines(plan)[6:]] == ["b.mp4", "c.mp4"]


def test_other_settings_are_other_work(plan):
    run(plan)
    other = BatchOptions(PipelineOptions(seed=1))
    assert run(BatchPlan(plan.given, plan.out, other, 1)).num_kept == 0


def test_results_do_not_go_among_the_videos_of_a_folder(tmp_path):
    made(tmp_path, a="fine")
    with pytest.raises(UsageError, match="is a folder of input videos"):
        BatchPlan([tmp_path], tmp_path, BatchOptions()).videos()
    assert BatchPlan([tmp_path], tmp_path, BatchOptions(video=False)).videos()
