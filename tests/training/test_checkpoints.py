"""Checkpoints are read as they were written, or refused."""

import pytest
import torch

from diffusionpose.errors import CheckpointError

pytest.importorskip("lightning")

from diffusionpose.training.checkpoints import AtomicCheckpoints, read_checkpoint


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"weights": torch.arange(100_000.0), "step": 7}, path)
    return path


def test_what_was_written_is_read(written):
    found = read_checkpoint(written)
    assert found["step"] == 7
    torch.testing.assert_close(found["weights"], torch.arange(100_000.0), atol=0, rtol=0)


def test_one_wrong_bit_among_the_weights_is_found(written):
    content = bytearray(written.read_bytes())
    content[len(content) // 2] ^= 1
    written.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged since it was written"):
        read_checkpoint(written)


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_what_is_cut_short_is_told(written, kept):
    written.write_bytes(written.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: (damaged|not a file of plain)"):
        read_checkpoint(written)
