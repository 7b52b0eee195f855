import errno
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusionpose import DiffusionPose
from diffusionpose.config import (
    MODEL_SIZES,
    BackboneConfig,
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    model_config,
)
from diffusionpose.errors import CheckpointError, ConfigError
from diffusionpose.model.cost import window_cost
from diffusionpose.model.pretrained import CONFIG, WEIGHTS
from diffusionpose.nn.diffusion import to_signal

SMALL = BackboneConfig(kind="hybrid", hidden_size=64, depth=1, num_heads=2)

# One configuration per row of the ablation tables: (encoder, decoder).
ROWS = {
    "table5_baseline": ("none", {"kind": "unet"}),
    "table5_a_table7_a": ("spatio_temporal", {"kind": "unet"}),
    "table5_b_table6_a": ("none", {}),
    "table5_c_table6_c_table7_e": ("spatio_temporal", {}),
    "table6_b": ("joint_attention", {}),
    "table7_b": ("spatio_temporal", {"position_conditions": False, "markov": False}),
    "table7_c": ("spatio_temporal", {"markov": False}),
    "table7_d": ("spatio_temporal", {"markov": True}),
    "diffpose_like": ("joint_attention", {"kind": "lookup"}),
    "flooding": ("spatio_temporal", {"num_iterations": 2}),
    "feature_kernels": ("spatio_temporal", {"feature_kernels": True}),
    "one_token_a_joint": ("spatio_temporal", {"patch_size": (64, 48)}),
    "plain_head": ("spatio_temporal", {"kind": "head"}),
}


def small_config(encoder="spatio_temporal", **decoder):
    return ModelConfig(
        name="test",
        backbone=SMALL,
        encoder=EncoderConfig(kind=encoder, depth=1, num_heads=2),
        decoder=DecoderConfig(**{"depth": 1, "num_heads": 2} | decoder),
    )


def small_model(*args, seed=0, **kwargs):
    torch.manual_seed(seed)
    return DiffusionPose(small_config(*args, **kwargs)).eval()


def images(batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, 3, 256, 192), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_tables_predicts_and_learns(row):
    encoder, decoder = ROWS[row]
    model = small_model(encoder, **decoder)
    x_t = torch.randn(2, *model.noise_shape)
    heatmaps = model(images(), x_t, torch.tensor([999, 20]))
    assert heatmaps.shape == (2, 15, 64, 48)
    heatmaps.square().mean().backward()
    assert torch.isfinite(heatmaps).all()
    assert model.backbone.project.weight.grad.abs().max() > 0


def test_one_step_generation_is_one_call_of_the_decoder_at_the_last_step():
    model = small_model()
    with torch.inference_mode():
        conditions = model.encode(model.extract(images()))
        noise = torch.randn(2, *model.noise_shape)
        direct = model.denoise(noise, torch.tensor([999, 999]), conditions)
        torch.testing.assert_close(
            model.generate(conditions, noise, 1), direct, atol=1e-5, rtol=1e-5
        )


@torch.inference_mode()
def test_wrong_shapes_are_refused():
    model = DiffusionPose(ModelConfig(backbone=SMALL)).eval()
    images, noise = torch.zeros(1, 3, 3, 256, 192), torch.zeros(1, 15, 64, 48)
    conditions = model.encode(model.extract(images))
    for call, message in (
        (
            lambda: model.extract(images.transpose(3, 4)),
            r"images must have shape \(any, any, 3, 256, 192\), not",
        ),
        (
            lambda: model.encode(model.extract(images[:, :2])),
            r"features must have shape \(any, 3, any, any\), not",
        ),
        (
            lambda: model.generate(conditions, noise.repeat(2, 1, 1, 1)),
            r"x_t must have shape \(1, 15, 64, 48\), not \(2,",
        ),
        (lambda: model.generate(conditions, noise[:, :14]), r"x_t .*, not \(1, 14, 64, 48\)"),
        (
            lambda: model.generate(conditions, noise, 0),
            "DDIM steps must be between 1 and 1000, not 0",
        ),
        (lambda: model.generate(conditions, noise, 1001), "DDIM steps .* not 1001"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_corrupt_at_the_last_step_is_pure_noise_and_at_the_first_almost_the_signal():
    model = small_model()
    heatmaps, noise = torch.rand(2, *model.noise_shape), torch.randn(2, *model.noise_shape)
    last = model.corrupt(heatmaps, noise, torch.tensor([999, 999]))
    torch.testing.assert_close(last, noise, atol=1e-3, rtol=1e-3)
    first = model.corrupt(heatmaps, torch.zeros_like(noise), torch.tensor([0, 0]))
    torch.testing.assert_close(first, to_signal(heatmaps, 0.5), atol=1e-3, rtol=1e-3)


def test_features_of_a_frame_do_not_depend_on_its_neighbours():
    model = small_model()
    clip = images()
    other = clip.clone()
    other[:, 0] = 255 - other[:, 0]
    with torch.inference_mode():
        a, b = model.extract(clip), model.extract(other)
    torch.testing.assert_close(a[:, 1:], b[:, 1:])
    assert not torch.allclose(a[:, 0], b[:, 0])


def test_all_three_frames_matter_with_an_encoder_and_only_the_key_frame_without():
    for encoder, expected in (("spatio_temporal", True), ("none", False)):
        model = small_model(encoder)
        noise = torch.randn(2, *model.noise_shape)
        with torch.inference_mode():
            features = model.extract(images())
            reference = model.generate(model.encode(features), noise)
            for frame in (0, 2):
                changed = features.clone()
                changed[:, frame] += torch.randn_like(changed[:, frame])
                other = model.generate(model.encode(changed), noise)
                assert (not torch.allclose(other, reference, atol=1e-6)) == expected


def test_the_past_flows_forward_only_through_the_full_sequence_scan():
    model = small_model()
    block = model.encoder.blocks[0]
    tokens = torch.randn(1, 3, 10, 64)
    later = tokens.clone()
    later[:, 2] += 1
    with torch.inference_mode():
        full, full_later = block.full_sequence(tokens), block.full_sequence(later)
        local, local_later = block.temporal(tokens), block.temporal(later)
    assert torch.equal(full[:, :2], full_later[:, :2])
    assert not torch.allclose(local[:, 0], local_later[:, 0])


def test_fusion_gate_mixes_the_two_branches():
    block = small_model().encoder.blocks[0]
    full, temporal = torch.randn(1, 3, 4, 64), torch.randn(1, 3, 4, 64)
    for bias, expected in ((50.0, full), (-50.0, temporal)):
        torch.nn.init.constant_(block.gate.bias, bias)
        torch.testing.assert_close(block.fuse(full, temporal), expected)


@pytest.mark.parametrize("size", MODEL_SIZES)
def test_sizes(size):
    cost = window_cost(model_config(size))
    parameters, gigaflops = {
        "tiny": (9.8, 8.6),
        "small": (38.8, 39.6),
        "base": (216.8, 200.4),
        "large": (535.7, 532.3),
        "huge": (993.5, 1012.6),
    }[size]
    assert cost.parameters / 1e6 == pytest.approx(parameters, rel=0.01)
    assert cost.flops / 1e9 == pytest.approx(gigaflops, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": (250, 192)}, "multiple of the patch size"),
        ({"heatmap_size": (32, 24)}, "quarter"),
        ({"skeleton": "coco17"}, "not a tree"),
        ({"skeleton": "cat"}, "posetrack15"),
        ({"encoder": {"num_heads": 7}}, "encoder.num_heads"),
        ({"encoder": {"dept": 7}}, "encoder.dept: unknown key"),
    ],
)
def test_impossible_configurations(change, message):
    from diffusionpose.config import parse

    with pytest.raises(ConfigError, match=message):
        parse(ModelConfig, change, "recipe")


# --- on disk
# ---------------------------------------------------------------------------------------


def test_save_and_load_give_the_same_model(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path, "# card")
    again = DiffusionPose.from_pretrained(tmp_path)
    noise = torch.randn(2, *model.noise_shape)
    t = torch.tensor([999, 999])
    with torch.inference_mode():
        torch.testing.assert_close(
            again(images(), noise, t), model(images(), noise, t), atol=0, rtol=0
        )
    assert (tmp_path / "README.md").read_text() == "# card"


def test_a_model_that_cannot_be_written_leaves_nothing_beside_the_old_one(tmp_path, monkeypatch):
    small_model().save_pretrained(tmp_path, "# card")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("diffusionpose.model.checkpoint.sha256_of", fail)
    with pytest.raises(OSError, match="No space left"):
        small_model().save_pretrained(tmp_path, "# another")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_float16_halves_the_file_and_hardly_moves_the_heatmaps(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path / "full", "")
    model.save_pretrained(tmp_path / "half", "", torch.float16)
    sizes = [(tmp_path / kind / WEIGHTS).stat().st_size for kind in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = DiffusionPose.from_pretrained(tmp_path / "half")
    assert all(p.dtype == torch.float32 for p in again.parameters())


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def another_model(path):
    save_file({"x": torch.zeros(3)}, path)


def forget_hash(folder):
    config = json.loads((folder / CONFIG).read_text())
    del config["sha256"]
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize("harm", [truncate, flip_a_bit, another_model])
def test_broken_weights_are_named_by_their_hash(tmp_path, harm):
    small_model().save_pretrained(tmp_path, "")
    harm(tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="SHA-256"):
        DiffusionPose.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("harm", "message"),
    [(truncate, "not a readable safetensors file"), (another_model, "do not fit")],
)
def test_broken_weights_without_a_hash(tmp_path, harm, message):
    small_model().save_pretrained(tmp_path, "")
    forget_hash(tmp_path)
    harm(tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        DiffusionPose.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSON"),
        ("[]", "format_version"),
        ('{"format_version": 99}', "format_version 99"),
        ('{"format_version": 1, "model": {"nmae": "x"}}', "nmae"),
    ],
)
def test_broken_config(tmp_path, content, message):
    small_model().save_pretrained(tmp_path, "")
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        DiffusionPose.from_pretrained(tmp_path)


def test_missing_models_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="nothing-here"):
        DiffusionPose.from_pretrained("nothing-here")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        DiffusionPose.from_pretrained(tmp_path)
    small_model().save_pretrained(tmp_path, "")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file"):
        DiffusionPose.from_pretrained(tmp_path)


def test_load_matching_takes_what_fits(tmp_path):
    source = small_model(seed=1)
    source.save_pretrained(tmp_path, "")
    target = small_model("none", kind="head")
    copied = target.load_matching(tmp_path)
    assert "backbone.project.weight" in copied
    assert torch.equal(target.backbone.project.weight, source.backbone.project.weight)
    another_model(tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="none of its 1 tensors"):
        target.load_matching(tmp_path / "x.safetensors")
    assert "x" in load_file(tmp_path / "x.safetensors")
