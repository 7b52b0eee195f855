"""The DiffusionPose network: from three crops and noise to heatmaps (paper, Fig. 2).

| here | paper |
|---|---|
| `images` | cropped video segment {I_{t-1}, I_t, I_{t+1}} of one person |
| `features` | {F_{t-1}, F_t, F_{t+1}}, 3 x N x D |
| `conditions.position`, `conditions.features` | C_p (J x D), C_f (N x D) |
| `x_t`, `heatmaps` | noisy heatmaps, H_t |
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from diffusionpose.config import ModelConfig
from diffusionpose.errors import CheckpointError
from diffusionpose.model import checkpoint
from diffusionpose.model.baselines import HeatmapHead, LookupDenoiser, UNetDenoiser
from diffusionpose.model.decoder import PoseDenoisingDecoder
from diffusionpose.model.encoder import Conditions, make_encoder
from diffusionpose.nn import diffusion, vitpose_weights
from diffusionpose.nn.backbone import ViTBackbone, grid_of, make_backbone, normalise
from diffusionpose.nn.markov import MarkovOptimizationLayer

_DECODERS = {
    "hcdb": PoseDenoisingDecoder,
    "unet": UNetDenoiser,
    "lookup": LookupDenoiser,
    "head": HeatmapHead,
}


class DiffusionPose(nn.Module):
    """Backbone, encoder and decoder of one configuration, randomly initialised.

    Args:
        config: Sizes and choice of components; covers every row of Tables 5 to 7.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = make_backbone(config.backbone, config.image_size)
        self.encoder = make_encoder(config)
        self.decoder = _DECODERS[config.decoder.kind](config)

    @cached_property
    def scheduler(self) -> "diffusion.DDIMScheduler":
        """The noise schedule of training."""
        return diffusion.make_scheduler(self.config.diffusion.num_train_timesteps)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> "DiffusionPose":
        """Load a model with its weights, in evaluation mode on the CPU.

        Args:
            name_or_path: Name of a bundled model, a folder, or a Hugging Face repository
                `owner/name`; only the last is downloaded.

        Raises:
            CheckpointError: If files are missing or corrupted, or do not match each other.
        """
        config, tensors = checkpoint.load(name_or_path)
        model = cls(config)
        checkpoint.check_fit(model.state_dict(), tensors, str(name_or_path))
        model.load_state_dict(tensors)
        return model.eval()

    def save_pretrained(
        self, folder: str | Path, card: str, dtype: torch.dtype = torch.float32
    ) -> Path:
        """Write `config.json`, `model.safetensors` and the model card; see `checkpoint.save`."""
        return checkpoint.save(folder, self.config, self.state_dict(), card, dtype)

    def load_matching(self, path: Path, start: str = "") -> list[str]:
        """Copy the tensors whose name and shape match, for a run that starts from other weights.

        Args:
            path: Model folder or safetensors file.
            start: Only tensors whose name starts with this are copied, e.g. `backbone.`.

        Returns:
            Names of the tensors that were copied.

        Raises:
            CheckpointError: If the file cannot be read, or no tensor matches.
        """
        own = self.state_dict()
        tensors = checkpoint.read_weights(path / checkpoint.WEIGHTS if path.is_dir() else path)
        fitting = {
            k: v
            for k, v in tensors.items()
            if k in own and own[k].shape == v.shape and k.startswith(start)
        }
        if not fitting:
            raise CheckpointError(
                f"{path}: none of its {len(tensors)} tensors matches this model by name and shape"
            )
        self.load_state_dict(fitting, strict=False)
        return sorted(fitting)

    def load_backbone(self, path: Path) -> None:
        """Load pretrained ViTPose weights into the backbone; see `vitpose_weights` for the layouts.

        Raises:
            CheckpointError: If the file is unreadable or no ViTPose backbone, or if its size is not
                that of the configuration.
        """
        if not isinstance(self.backbone, ViTBackbone):
            raise CheckpointError(
                f"{path}: ViTPose weights need a ViT backbone; set model.backbone.kind=vit"
            )
        tensors = checkpoint.read_backbone(path)
        grid = grid_of(self.config.backbone, self.config.image_size)
        state = vitpose_weights.convert(tensors, grid)
        checkpoint.check_fit(self.backbone.vit.state_dict(), state, str(path))
        self.backbone.vit.load_state_dict(state)

    def hold_bfloat16(self) -> None:
        """Convert to bfloat16 the weights that autocast would cast at every call.

        Results under autocast stay the same and come faster; without autocast to bfloat16, the
        model no longer runs. Layers that compute in float32 keep their weights: norms, scans, and
        the Markov layers, which disable autocast.
        """
        in_float32 = {
            id(layer)
            for part in self.modules()
            if isinstance(part, MarkovOptimizationLayer)
            for layer in part.modules()
        }
        # Weights created in inference mode cannot be packed (`nn.packed`).
        with torch.inference_mode(False):
            for layer in self.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d) and id(layer) not in in_float32:
                    layer.weight.data = layer.weight.data.bfloat16()

    @property
    def num_joints(self) -> int:
        """Number of joints J of the skeleton."""
        return self.config.skeleton_graph.num_joints

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Shape (joints, height, width) of one person's x_T."""
        return (self.num_joints, *self.config.heatmap_size)

    def extract(
        self, images: Shaped[Tensor, "batch frames 3 image_height image_width"]
    ) -> Float[Tensor, "batch frames tokens dim"]:
        """Compute backbone features of RGB crops in [0, 255], independently for each frame."""
        height, width = self.config.image_size
        _check_shape("images", images, (..., ..., 3, height, width))
        flat = normalise(rearrange(images, "b f c h w -> (b f) c h w"))
        flat = flat.contiguous(memory_format=torch.channels_last)
        return rearrange(self.backbone(flat), "(b f) n d -> b f n d", b=images.shape[0])

    def encode(self, features: Float[Tensor, "batch frames tokens dim"]) -> Conditions:
        """Run the Spatio-Temporal Feature Encoder to get position and feature conditions."""
        _check_shape("features", features, (..., self.config.num_frames, ..., ...))
        return self.encoder(features)

    def denoise(
        self,
        x_t: Float[Tensor, "batch joints height width"],
        t: Int[Tensor, " batch"],
        conditions: Conditions,
    ) -> Float[Tensor, "batch joints height width"]:
        """Run the denoiser once: heatmaps (x_0 before scaling) from noisy heatmaps at step t."""
        # Mismatched batch sizes would broadcast silently.
        batch = conditions.features.shape[0]
        _check_shape("x_t", x_t, (batch, *self.noise_shape))
        _check_shape("t", t, (batch,))
        return self.decoder(x_t, t, conditions)

    def forward(
        self,
        images: Shaped[Tensor, "batch frames 3 image_height image_width"],
        x_t: Float[Tensor, "batch joints height width"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch joints height width"]:
        """Predict heatmaps of the key frame from crops and noisy heatmaps at step t."""
        return self.denoise(x_t, t, self.encode(self.extract(images)))

    def corrupt(
        self,
        heatmaps: Float[Tensor, "batch joints height width"],
        noise: Float[Tensor, "batch joints height width"],
        t: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch joints height width"]:
        """Apply the forward process to target heatmaps: x_t at step t."""
        x_0 = diffusion.to_signal(heatmaps, self.config.diffusion.signal_scale)
        return diffusion.add_noise(self.scheduler, x_0, noise, t)

    def generate(
        self,
        conditions: Conditions,
        noise: Float[Tensor, "batch joints height width"],
        num_inference_steps: int = 1,
        on_step: Callable[[Tensor], None] | None = None,
    ) -> Float[Tensor, "batch joints height width"]:
        """Run inference: DDIM from noise to heatmaps.

        Args:
            conditions: Output of `encode`.
            noise: x_T, standard Gaussian.
            num_inference_steps: DDIM steps; 1 in the paper.
            on_step: Called with the noise and the result of every step, scaled to heatmaps.
        """
        scale, most = self.config.diffusion.signal_scale, self.config.diffusion.num_train_timesteps

        def predict_x_0(x_t: Tensor, t: Tensor) -> Tensor:
            # float32, as half precision would lose near-zero heatmap values to the signal's offset.
            return diffusion.to_signal(self.denoise(x_t, t, conditions).float(), scale)

        def show(x_t: Tensor) -> None:
            if on_step is not None:
                on_step(diffusion.to_heatmaps(x_t, scale))

        x_0 = diffusion.sample(most, predict_x_0, noise, num_inference_steps, show)
        return diffusion.to_heatmaps(x_0, scale)


def _check_shape(name: str, tensor: Tensor, wanted: tuple[Any, ...]) -> None:
    """Check a tensor's shape; an ellipsis stands for any size.

    Raises:
        ValueError: If the shape differs.
    """
    if torch.compiler.is_compiling():
        return  # sizes are symbolic
    found = tensor.shape
    if len(found) != len(wanted) or any(
        want is not ... and size != want for size, want in zip(found, wanted, strict=True)
    ):
        text = ", ".join("any" if want is ... else str(want) for want in wanted)
        raise ValueError(f"{name} must have shape ({text}), not {tuple(found)}")
