"""torch.compile on the whole network, in a separate process without the tests' type checks."""

import subprocess
import sys

SCRIPT = """
import sys, torch
from diffusionpose import DiffusionPose

torch.set_num_threads(1)
model = DiffusionPose.from_pretrained(sys.argv[1])
images = torch.randint(0, 256, (2, 3, 3, 256, 192), dtype=torch.uint8)
noise, t = torch.randn(2, *model.noise_shape), torch.tensor([999, 3])
compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
with torch.no_grad():
    torch.testing.assert_close(compiled(images, noise, t), model(images, noise, t))
for network in (model, compiled):
    network(images, noise, t).square().sum().backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    if network is model:
        expected = grads
for grad, other in zip(grads, expected, strict=True):
    torch.testing.assert_close(grad, other, atol=1e-4, rtol=1e-3)
print("compiled", len(grads))
"""


def test_the_whole_network_compiles_without_a_graph_break(untrained):
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(untrained)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("compiled")
