"""Object detectors of the transformers library, from a local folder or the Hugging Face hub.

torch and transformers are imported on first use.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from diffusionpose.boxes import clip_to_image, suppress_duplicates
from diffusionpose.errors import CheckpointError, first_line
from diffusionpose.structures import Boxes


class TransformersDetector:
    """A transformers object detector (D-FINE, RT-DETRv2, YOLOS, ...) with a class `person`.

    Images are preprocessed by the PIL variant of the model's image processor, as the other one
    needs torchvision. Weights are read from safetensors only, never unpickled.

    Args:
        name: Local folder, or repository on the hub.
        device: torch device name.
        score_threshold: As in `load_detector`.

    Raises:
        CheckpointError: If the model cannot be loaded, is not an object detector, or has no class
            `person`.
    """

    def __init__(
        self, name: str, *, device: str = "cpu", score_threshold: float | None = None
    ) -> None:
        self.name = Path(name).expanduser().name if Path(name).expanduser().is_dir() else name
        self._processor, self._model = _load_transformers(name)
        self._model = self._model.to(device).eval()
        self._device = device
        self._person = self._person_label()
        self._floor = 0.15 if score_threshold is None else score_threshold
        self.start_score = 0.5 if score_threshold is None else score_threshold

    def __call__(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        # Only images of equal size are batched: others would be padded, which changes the boxes.
        if len({image.shape for image in images}) > 1:
            return [self._detect([image])[0] for image in images]
        return self._detect(images) if len(images) else []

    def _person_label(self) -> int:
        labels = self._model.config.id2label
        for index, label in labels.items():
            if str(label).casefold() == "person":
                return int(index)
        some = ", ".join(map(str, list(labels.values())[:5]))
        raise CheckpointError(f"{self.name}: none of its classes is 'person' (it has {some}, ...)")

    def _detect(self, images: Sequence[np.ndarray]) -> list[Boxes]:
        import torch

        inputs = self._processor(
            list(images), return_tensors="pt", input_data_format="channels_last"
        )
        with torch.inference_mode():
            outputs = self._model(pixel_values=inputs["pixel_values"].to(self._device))
        results = self._processor.post_process_object_detection(
            outputs, threshold=self._floor, target_sizes=[image.shape[:2] for image in images]
        )
        return [self._people(result, image) for result, image in zip(results, images, strict=True)]

    def _people(self, result: dict[str, Any], image: np.ndarray) -> Boxes:
        is_person = (result["labels"] == self._person).cpu().numpy()
        boxes, scores = (result[key].float().cpu().numpy() for key in ("boxes", "scores"))
        people = clip_to_image(boxes[is_person], scores[is_person], image)
        return suppress_duplicates(people, max_iou=0.7)


def _load_transformers(name: str) -> tuple[Any, Any]:
    """Load processor and model; a local folder is read without network access."""
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    folder = Path(name).expanduser()
    is_local = folder.is_dir()
    source = str(folder) if is_local else name
    try:
        with _no_loading_bars(is_local):
            processor = AutoImageProcessor.from_pretrained(
                source, backend="pil", local_files_only=is_local
            )
            model, report = AutoModelForObjectDetection.from_pretrained(
                source, use_safetensors=True, local_files_only=is_local, output_loading_info=True
            )
    except Exception as error:  # errors of the hub, safetensors and others share no base
        hint = "" if is_local else "; without network access, give a local folder"
        raise CheckpointError(
            f"{name}: cannot be loaded as a transformers object detector, which needs "
            f"config.json, preprocessor_config.json and model.safetensors{hint} "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    lost = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])})
    if lost:
        # transformers would only warn and initialise them randomly.
        raise CheckpointError(
            f"{name}: {len(lost)} weights are missing or have another shape, such as {lost[0]}"
        )
    return processor, model


@contextmanager
def _no_loading_bars(is_local: bool) -> Iterator[None]:
    """Disable the progress bars of transformers while a local folder is loaded."""
    from transformers.utils import logging

    if not is_local or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
