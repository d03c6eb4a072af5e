"""Write an exported network as one Python file that needs only PyTorch, beside its safetensors file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor, nn

from spos_cli.data.transforms import IMAGENET
from spos_cli.export import safetensors_file
from spos_cli.export.description import Description
from spos_cli.export.inference import Gate, InferenceNetwork
from spos_cli.files.writing import write_atomically

TEMPLATE = '''"""A network that `spos` has found, for use without it. It needs only PyTorch.

    import torch
    from {module} import load

    network = load()                                            # reads {weights} beside this file
    images = torch.zeros(1, {channels}, {size}, {size}{dtype})
    logits = network(images)                                    # (1, {classes})
    name = network.classes[logits.argmax()]                     # if the classes have names

Images are {images}.
Architecture: {architecture}
"""

import json
from pathlib import Path

import torch
from torch import nn
{imports}

class Network(nn.Module):
    """BatchNorm is folded into the convolutions, and channels are in the order of their use."""

    def __init__(self):
        super().__init__()
{modules}

    def forward(self, images):
        """Compute logits (B, {classes}) of images (B, {channels}, {size}, {size})."""
{forward}


def conv(in_channels, out_channels, kernel, stride=1, groups=1):
    """Make a convolution that keeps the size of its input; with stride 2 it halves it."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups)

{gate}
def load(path=Path(__file__).with_suffix(".safetensors")):
    """Return the network with its weights, for inference; `network.classes` has the names of the classes."""
    content = Path(path).read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")  # the length of the header, the header, the tensors
    header = json.loads(content[8:begin])
    description = json.loads(header.pop("__metadata__")["spos"])
    types = {{"F32": torch.float32, "I64": torch.int64}}
    state = {{}}
    for name, tensor in header.items():
        first, last = (begin + offset for offset in tensor["data_offsets"])
        values = torch.frombuffer(bytearray(content[first:last]), dtype=types[tensor["dtype"]])
        state[name] = values.reshape(tensor["shape"])
    network = Network()
    network.load_state_dict(state)
    network.classes = description["classes"]
    return network.eval().requires_grad_(False)
'''

# The class in files of networks with squeeze and excitation.
GATE = '''
class Gate(nn.Sequential):
    """Multiply features by what the modules compute of the means of their channels."""

    def forward(self, features):
        return features * super().forward(features.mean((2, 3), keepdim=True))

'''


def write(network: InferenceNetwork, description: Description, path: Path) -> None:
    """Write the Python file, and the tensors to a safetensors file of the same name.

    Raises:
        RunError: a file cannot be written.
    """
    safetensors_file.write(network, description, path.with_suffix(".safetensors"))
    write_atomically(path, format_network(network, description, path.stem).encode())


def load(path: Path) -> Callable[[Tensor], Tensor]:
    """Run the file, which must be one that `write` has written just now, and return its network."""
    names = {"__file__": str(path), "__name__": path.stem}
    # Importing it would leave a cache of its code behind.
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    network: Callable[[Tensor], Tensor] = names["load"]()  # type: ignore[operator]
    return network


def format_network(network: InferenceNetwork, description: Description, module: str) -> str:
    """Return the text of the Python file.

    Args:
        module: name of the file, without its suffix.
    """
    is_uint8 = network.input_kind == "uint8"
    own = sorted({path.partition(":")[0] for path, _ in network.own_blocks.values()})
    return TEMPLATE.format(
        module=module,
        weights=f"{module}.safetensors",
        size=network.image_size,
        channels=network.in_channels,
        dtype=", dtype=torch.uint8" if is_uint8 else "",
        classes=network.classifier.out_features,
        images=f"{_describe_input(network)}, {network.image_size} x {network.image_size} pixels",
        architecture=description.architecture,
        imports="".join(f"\nimport {name}" for name in own) + ("\n" if own else ""),
        gate=GATE if any(isinstance(module, Gate) for module in network.modules()) else "",
        modules="\n".join(_indent(_format_modules(network))),
        forward="\n".join(_indent(_format_forward(network))),
    )


def _describe_input(network: InferenceNetwork) -> str:
    """Describe the images that the network takes, but for their size."""
    colours = {1: "grey", 3: "RGB"}.get(network.in_channels, f"of {network.in_channels} channels")
    if network.input_kind == "uint8":
        return f"{colours}, uint8 from 0 to 255"
    if network.preset == "spos":
        return "BGR, float from 0 to 255"
    if network.normalisation == IMAGENET:
        return "RGB, float, normalised with ImageNet's mean"
    mean, std = map(list, network.normalisation)
    return f"{colours}, float, from 0 to 1, then normalised with the mean {mean} and the deviation {std}"


def _format_modules(network: InferenceNetwork) -> Iterator[str]:
    for layer in network.layers:
        yield f"# {layer.title}"
        for name in layer.modules:
            if name in network.own_blocks:
                path, arguments = network.own_blocks[name]
                yield f"self.{name} = {path.replace(':', '.')}({arguments})"
                continue
            parts = [_format_module(part) for part in getattr(network, name)]
            line = f"self.{name} = nn.Sequential({', '.join(parts)})"
            yield from (
                [line]
                if len(line) <= 110
                else [
                    f"self.{name} = nn.Sequential(",
                    *(f"    {part}," for part in parts),
                    ")",
                ]
            )
    if network.head_linear is not None:
        yield f"self.head_linear = nn.Sequential({', '.join(map(_format_module, network.head_linear))})"
    yield f"self.classifier = {_format_module(network.classifier)}"
    if network.is_normalised:
        for name, values in zip(("pixel_mean", "pixel_std"), network.normalisation, strict=True):
            shape = f"1, {len(values)}, 1, 1"
            yield f'self.register_buffer("{name}", torch.tensor({list(values)}).view({shape}) * 255)'


def _format_module(module: nn.Module) -> str:
    """Return the expression that makes a module of a branch."""
    if isinstance(module, Gate):
        return f"Gate({', '.join(map(_format_module, module))})"
    if isinstance(module, nn.ChannelShuffle):
        return f"nn.ChannelShuffle({module.groups})"
    if isinstance(module, nn.Linear):
        bias = "" if module.bias is not None else ", bias=False"
        return f"nn.Linear({module.in_features}, {module.out_features}{bias})"
    if not isinstance(module, nn.Conv2d):
        return f"nn.{type(module).__name__}()"
    kernel, stride = module.kernel_size[0], module.stride[0]
    assert module.padding == (kernel // 2, kernel // 2), "all convolutions of the spaces keep the size"
    more = [f"stride={stride}"] if stride != 1 else []
    more += [f"groups={module.groups}"] if module.groups != 1 else []
    return f"conv({', '.join([str(module.in_channels), str(module.out_channels), str(kernel), *more])})"


def _format_forward(network: InferenceNetwork) -> Iterator[str]:
    if network.input_kind == "uint8":
        yield "images = images.float()"
    if network.is_normalised:
        yield "images = (images - self.pixel_mean) / self.pixel_std"
    for layer in network.layers:
        yield f"# {layer.title}"
        yield from map(str, layer.steps)
    if network.head_linear is None:
        yield "return self.classifier(features.mean((2, 3)))"
    else:
        yield "return self.classifier(self.head_linear(features.mean((2, 3))))"


def _indent(lines: Iterator[str]) -> Iterator[str]:
    return (f"        {line}" for line in lines)
