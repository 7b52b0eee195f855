"""Opening ONNX models; onnxruntime is imported with the first of them."""

from typing import Any

from diffusionpose.errors import CheckpointError, first_line
from diffusionpose.process import usable_cores


def open_session(model: str | bytes, name: str, device: str) -> Any:
    """An onnxruntime session; `CheckpointError` when the bytes are no ONNX model."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = min(usable_cores(), 4)
    # Spinning threads would starve torch, which works on the same cores in between.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    on_gpu = device.startswith("cuda") and "CUDAExecutionProvider" in ort.get_available_providers()
    providers = [*(["CUDAExecutionProvider"] if on_gpu else []), "CPUExecutionProvider"]
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base
        raise CheckpointError(f"{name}: not a readable ONNX model ({first_line(error)})") from error
