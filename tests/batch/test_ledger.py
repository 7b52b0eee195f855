"""The ledger: contents and robustness."""

import json

import pytest

from diffusionpose.batch.ledger import LEDGER, LedgerEntry, open_ledger
from diffusionpose.errors import DataError, UsageError
from diffusionpose.model.pretrained import sha256_of

DONE = LedgerEntry("walk.mp4", "ok", "k", "i", files={"walk.poses.json": "f"}, seconds=1.5)


def read(folder):
    with open_ledger(folder) as ledger:
        return ledger


def test_what_is_appended_is_there_when_it_is_opened_again(tmp_path):
    odd = LedgerEntry("кадр \udcff.mp4", "rejected", message="text,\nnot a video")
    with open_ledger(tmp_path) as ledger:
        for entry in (LedgerEntry("walk.mp4", "started"), DONE, odd):
            ledger.append(entry)
        assert len((tmp_path / LEDGER).read_bytes().splitlines()) == 3  # written immediately
    assert "кадр" in (tmp_path / LEDGER).read_text(encoding="utf-8")
    again = read(tmp_path)
    assert again.last == {"walk": DONE, odd.stem: odd}
    assert again.delivered == {"walk": DONE}
    assert again.owned == {"walk"}


def test_results_stay_known_when_later_work_fails(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(DONE)
        ledger.append(LedgerEntry("walk.mp4", "timeout"))
    again = read(tmp_path)
    assert again.last["walk"].status == "timeout"
    assert again.delivered["walk"] == DONE


def test_a_line_that_was_cut_off_anywhere_is_taken_away(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(DONE)
    path = tmp_path / LEDGER
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole + whole[:length])
        assert read(tmp_path).last == {"walk": DONE}
        assert path.read_bytes() == whole
        path.write_bytes(whole[:length])
        assert read(tmp_path).last == {}


@pytest.mark.parametrize("line", ["{}", "[]", "no JSON", '{"name": "a", "status": "fine"}', "1"])
def test_lines_that_are_none_of_ours_are_named(tmp_path, line):
    (tmp_path / LEDGER).write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"ledger\.jsonl: line 1 is not an entry"):
        read(tmp_path)


def test_two_batches_in_one_folder_are_refused(tmp_path):
    with open_ledger(tmp_path), pytest.raises(UsageError, match="in use by another batch"):
        read(tmp_path)
    assert read(tmp_path).last == {}


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        read(tmp_path / "file" / "out")


def test_an_entry_is_valid_while_its_key_and_files_are(tmp_path):
    file = tmp_path / "walk.poses.json"
    file.write_text("poses")
    done = LedgerEntry("walk.mp4", "partial", "k", files={file.name: sha256_of(file)})
    assert done.stands("k", tmp_path)
    assert not done.stands("other", tmp_path)
    assert not LedgerEntry("walk.mp4", "crashed", "k").stands("k", tmp_path)
    file.write_text("Poses")
    assert not done.stands("k", tmp_path)
    file.unlink()
    assert not done.stands("k", tmp_path)


def test_a_line_has_everything(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(DONE)
    assert json.loads((tmp_path / LEDGER).read_text()) == {
        "name": "walk.mp4", "status": "ok", "key": "k", "input_sha256": "i", "message": "",
        "files": {"walk.poses.json": "f"}, "seconds": 1.5, "frames": 0, "people": 0,
    }  # fmt: skip


def test_only_what_was_written_is_owned(tmp_path):
    with open_ledger(tmp_path) as ledger:
        ledger.append(LedgerEntry("a.mp4", "started"))
        assert ledger.owned == {"a"}, "killed now, it may have left files"
        ledger.append(LedgerEntry("a.mp4", "rejected"))
        assert ledger.owned == set()
        ledger.append(LedgerEntry("a.mp4", "ok"))
        ledger.append(LedgerEntry("a.mp4", "rejected"))
        assert ledger.owned == {"a"}, "its results are still there"
