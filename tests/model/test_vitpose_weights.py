import pytest
import torch
from safetensors.torch import save_file
from transformers import VitPoseBackbone, VitPoseBackboneConfig

from diffusionpose import DiffusionPose
from diffusionpose.config import BackboneConfig, DecoderConfig, EncoderConfig, ModelConfig
from diffusionpose.errors import CheckpointError
from diffusionpose.nn.vitpose_weights import convert

DIM, DEPTH, EXPERTS = 64, 2, 3
GRID = (16, 12)


def reference(experts=1):
    """The backbone of transformers with random weights, as the reference for features."""
    torch.manual_seed(0)
    model = VitPoseBackbone(
        VitPoseBackboneConfig(
            image_size=[256, 192],
            hidden_size=DIM,
            num_hidden_layers=DEPTH,
            num_attention_heads=1,
            mlp_ratio=4,
            num_experts=experts,
            part_features=16 if experts > 1 else 0,
        )
    ).eval()
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    return model


def original_layout(state, prefix="backbone."):
    """Rename a Hugging Face state dict to the names in the original `.pth` files."""
    out = {}
    for name, tensor in state.items():
        if ".attention.attention.query." in name:
            parts = [state[name.replace("query", part)] for part in ("query", "key", "value")]
            layer, kind = name.split(".")[2], name.rsplit(".", 1)[1]
            out[f"{prefix}blocks.{layer}.attn.qkv.{kind}"] = torch.cat(parts)
        elif ".attention.attention." not in name:
            new = name.replace("encoder.layer.", "blocks.")
            for old, replacement in (
                ("embeddings.position_embeddings", "pos_embed"),
                ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
                ("layernorm_before", "norm1"),
                ("layernorm_after", "norm2"),
                ("attention.output.dense", "attn.proj"),
            ):
                new = new.replace(old, replacement)
            out[prefix + (new.replace("layernorm.", "last_norm."))] = tensor
    out["keypoint_head.final_layer.weight"] = torch.zeros(17, DIM, 1, 1)
    return out


def vit_model():
    config = ModelConfig(
        backbone=BackboneConfig(hidden_size=DIM, depth=DEPTH, num_heads=1),
        encoder=EncoderConfig(kind="none"),
        decoder=DecoderConfig(kind="head"),
    )
    return DiffusionPose(config).eval()


@pytest.mark.parametrize("experts", [1, EXPERTS])
@pytest.mark.parametrize("layout", ["original", "hugging_face"])
@pytest.mark.parametrize("container", ["file", "folder"])
def test_both_layouts_give_the_reference_features(tmp_path, experts, layout, container):
    truth = reference(experts)
    state = {name: tensor.clone() for name, tensor in truth.state_dict().items()}
    if layout == "original":
        path = tmp_path / "vitpose.pth"
        torch.save({"state_dict": original_layout(state), "meta": {"epoch": 210}}, path)
    else:
        named = {f"backbone.{name}": tensor for name, tensor in state.items()}
        named["head.conv.weight"] = torch.zeros(17, DIM, 3, 3)
        path = tmp_path / "model.safetensors"
        save_file(named, path)
        path = tmp_path if container == "folder" else path
    model = vit_model()
    model.load_backbone(path)
    pixels = torch.randn(2, 3, 256, 192)
    arguments = {} if experts == 1 else {"dataset_index": torch.zeros(2, dtype=torch.long)}
    with torch.inference_mode():
        expected = truth(pixels, **arguments).feature_maps[-1]
        found = model.backbone(pixels)
    torch.testing.assert_close(found, expected.reshape(found.shape), atol=1e-5, rtol=1e-5)


def test_position_embeddings_are_interpolated():
    state = reference().state_dict()
    rows = torch.linspace(0, 1, 16).view(16, 1, 1).expand(16, 12, DIM)
    state["embeddings.position_embeddings"] = torch.cat(
        [torch.full((1, 1, DIM), 7.0), rows.reshape(1, 192, DIM)], 1
    )
    out = convert(state, (24, 18))["embeddings.position_embeddings"]
    assert out.shape == (1, 24 * 18 + 1, DIM)
    assert out[0, 0, 0] == 7
    grid = out[0, 1:].view(24, 18, DIM)[..., 0]
    assert (grid[:, 0] - grid[:, 9]).abs().max() < 1e-5
    assert (grid[1:, 0] > grid[:-1, 0] - 1e-3).all()
    torch.testing.assert_close(grid.mean(), torch.tensor(0.5), atol=1e-2, rtol=0)


class Surprise:
    def __reduce__(self):
        return (print, ("code ran",))


def test_refusals(tmp_path, capsys):
    model = vit_model()
    torch.save({"state_dict": Surprise()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="not a file of plain tensors"):
        model.load_backbone(tmp_path / "evil.pth")
    assert "code ran" not in capsys.readouterr().out
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not a ViTPose backbone"):
        model.load_backbone(tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match="plain tensors"):
        model.load_backbone(tmp_path / "text.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        model.load_backbone(tmp_path / "none.pth")
    state = original_layout(reference().state_dict())
    del state["backbone.last_norm.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"layernorm\.bias"):
        model.load_backbone(tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="no expert 9"):
        convert(reference(EXPERTS).state_dict(), GRID, expert=9)
