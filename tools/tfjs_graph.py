"""Reading TensorFlow.js graph models from an npm archive."""

import json
import tarfile
from typing import Any

import numpy as np

_STORED = {"float16": np.float16, "float32": np.float32, "int32": np.int32, "bool": np.bool_}


def read_graph(
    archive: tarfile.TarFile, name: str
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Read nodes in order of execution, and constants by name; float16 becomes float32.

    A model is a JSON file with nodes and descriptions of tensors, and a file of their concatenated
    values.

    Args:
        archive: Archive of the package.
        name: Name of the model in the package's folder `models`, without suffix.
    """

    def content(suffix: str) -> bytes:
        file = archive.extractfile(f"package/models/{name}{suffix}")
        assert file is not None
        return file.read()

    graph, values, offset, constants = json.loads(content(".json")), content(".bin"), 0, {}
    (group,) = graph["weightsManifest"]
    for entry in group["weights"]:
        stored = np.dtype(_STORED[entry.get("quantization", entry)["dtype"]])
        count = int(np.prod(entry["shape"]))
        array = np.frombuffer(values, stored, count, offset).reshape(entry["shape"])
        offset += array.nbytes
        constants[entry["name"]] = array.astype(np.float32) if stored == np.float16 else array
    assert offset == len(values)
    return graph["modelTopology"]["node"], constants
