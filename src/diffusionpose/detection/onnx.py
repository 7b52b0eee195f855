"""Opening of ONNX models; onnxruntime is imported on first use."""

from typing import Any

from diffusionpose.errors import CheckpointError, first_line
from diffusionpose.process import usable_cores


def open_session(model: str | bytes, name: str, device: str) -> Any:
    """Open an onnxruntime session.

    Args:
        model: Path or contents of the ONNX file.
        name: Of the model, for the error message.
        device: torch device name; CUDA is used if onnxruntime supports it.

    Raises:
        CheckpointError: If it is not a valid ONNX model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = min(usable_cores(), 4)
    # Spinning threads would compete with torch for the same cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    on_gpu = device.startswith("cuda") and "CUDAExecutionProvider" in ort.get_available_providers()
    providers = [*(["CUDAExecutionProvider"] if on_gpu else []), "CPUExecutionProvider"]
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no base
        raise CheckpointError(f"{name}: not a readable ONNX model ({first_line(error)})") from error
