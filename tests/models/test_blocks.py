"""Other blocks than ShuffleNetV2's, against torchvision's, and spaces that mix them and search depth."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenetv3, resnet
from torchvision.models.efficientnet import FusedMBConv, FusedMBConvConfig, MBConv, MBConvConfig
from torchvision.models.mobilenetv2 import InvertedResidual as Oracle
from torchvision.models.mobilenetv3 import InvertedResidualConfig

from spos_cli.engine.calibration import calibrate
from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.models.blocks import InvertedResidual, Skip, build_block
from spos_cli.models.counting import count, count_multiply_adds, count_parameters
from spos_cli.models.layers import BatchNorm
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.official.weights import detect_kind, infer_architecture
from spos_cli.search.evaluator import CalibrationSet, calibrate_paths
from spos_cli.space.architecture import Architecture
from spos_cli.space.choices import Choice
from spos_cli.space.layer import Layer
from spos_cli.space.search_space import SearchSpace, Stage
from tests.once import list_shapes_once


def make_choices(*specs: object) -> tuple[Choice, ...]:
    return tuple(map(Choice.from_spec, specs))  # type: ignore[arg-type]


INVERTED = make_choices({"mbconv": {"kernel": 3, "expand": 3}}, {"mbconv": {"kernel": 5, "expand": 1}}, "identity")
MIXED = make_choices({"shuffle": {"kernel": 3}}, "shuffle_xception", {"mbconv": {"kernel": 5, "expand": 2}}, "identity")
MACRO = make_choices(
    "skip",
    {"mbconv": {"kernel": 3, "expand": 3, "activation": "relu"}},
    {"mbconv": {"kernel": 5, "expand": 2, "activation": "hswish"}},
)
SE = {"kernel": 3, "expand": 3, "se": 0.25}
GATES = make_choices(
    {"mbconv": {**SE, "activation": "hswish"}},
    {"fused_mbconv": {**SE, "activation": "silu"}},
    {"shuffle": {"kernel": 3, "activation": "hswish", "se": 0.25}},
)
SHUFFLES = make_choices(
    {"shuffle": {"kernel": 3, "activation": "hswish", "se": 0.25}}, {"shuffle_xception": {"se": 0.5}}
)
GROUPS = make_choices(
    *({"mbconv": {"kernel": 3, "expand": expand, "groups": 2, "activation": "relu"}} for expand in (1, 3)), "skip"
)
RESNET = make_choices({"basic": {"kernel": 3}}, {"bottleneck": {"kernel": 5}}, "identity")
FIRST = make_choices({"mbconv": {"kernel": 3, "expand": 1}})
SPACES = {
    "inverted": SearchSpace((Stage(1, 8, 1, FIRST), Stage(3, 12), Stage(2, 12, 1)), INVERTED, 8, 5, 8, 1, 16),
    "macro": SearchSpace((Stage(2, 12), Stage(2, 12, 1), Stage(1, 16, 1)), MACRO, 8, 5, 8, 1, 16),
    "mixed": SearchSpace((Stage(2, 12), Stage(2, 16)), MIXED, 8, 5, 8, 1, 16),
    "gates": SearchSpace((Stage(2, 12), Stage(2, 16)), GATES, 8, 5, 8, 1, 16, (), "silu", 24, True),
    "shuffles with gates": SearchSpace((Stage(3, 12), Stage(3, 20)), SHUFFLES, 8, 5, 8, 1, 16),
    "groups": SearchSpace((Stage(2, 12), Stage(3, 16)), GROUPS, 8, 5, 8, 1, 16),
    "ResNet": SearchSpace((Stage(2, 12), Stage(3, 16)), RESNET, 8, 5, 8, 1, 16),
}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("expand", [1, 3])
@pytest.mark.parametrize("outputs", [6, 10])
def test_inverted_residual_equals_torchvisions(stride: int, expand: int, outputs: int) -> None:
    layer = Layer(0, 6, outputs, stride, 9, (), False)
    ours = InvertedResidual(layer, affine=True, hidden=6 * expand, kernel=3, expand=expand).eval()
    theirs = Oracle(6, outputs, stride, expand).eval()
    tensors = list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(ours.state_dict(), tensors, strict=True)))
    images = torch.randn(2, 6, 9, 9)
    (output,) = ours(images)
    torch.testing.assert_close(output, theirs(images))


@pytest.mark.parametrize(("name", "activation"), [("relu", nn.ReLU), ("relu6", nn.ReLU6), ("hswish", nn.Hardswish)])
def test_activations_of_the_inverted_residual(name: str, activation: type[nn.Module]) -> None:
    layer = Layer(0, 6, 6, 1, 9, (), False)
    ours = InvertedResidual(layer, affine=True, hidden=18, kernel=3, expand=3, activation=name).eval()
    theirs = Oracle(6, 6, 1, 3).eval()
    for module in list(theirs.modules()):
        for child, replaced in module.named_children():
            if isinstance(replaced, nn.ReLU6):
                setattr(module, child, activation())
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = 8 * torch.randn(2, 6, 9, 9)  # far enough from 0 for the three to differ
    torch.testing.assert_close(ours(images)[0], theirs(images))


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(6, 6, 1), (6, 6, 2), (6, 10, 1), (6, 10, 2)])
def test_skip_is_the_identity_or_a_projection(inputs: int, outputs: int, stride: int) -> None:
    block = Skip(Layer(0, inputs, outputs, stride, 9, (), False), affine=True, hidden=0).eval()
    images = torch.randn(2, inputs, 9, 9)
    (output,) = block(images)
    if (inputs, stride) == (outputs, 1):
        assert output is images
        assert not block.state_dict()
        return
    (weight,) = [tensor for tensor in block.state_dict().values() if tensor.dim() == 4]
    expected = F.conv2d(images, weight, stride=stride) / (1 + nn.BatchNorm2d(1).eps) ** 0.5
    torch.testing.assert_close(output, expected)


def test_identity_is_a_choice_where_the_shape_stays() -> None:
    layers = SPACES["inverted"].layers
    assert [len(layer.choices) for layer in layers] == [1, 2, 3, 3, 3, 3]
    assert SPACES["inverted"].size == 2 * 3**4
    for wrong in (make_choices("identity", {"shuffle": {"kernel": 3}}), make_choices("identity")):
        with pytest.raises(ConfigError, match="identity"):
            SearchSpace((Stage(2, 12),), wrong, 8, 5, 8, 1, 16)


def test_spaces_round_trip_through_plain_values() -> None:
    for space in SPACES.values():
        assert SearchSpace.from_dict(space.to_dict()) == space


def run_plainly(net: Supernet, images: Tensor, arch: Architecture) -> Tensor:
    """Compute logits `(B, classes)` with each block on all channels in the official order."""
    features = net.first_conv(images)
    for block in net.select_blocks(arch):
        (features,) = block(features)
    return net.classify(net.conv_last(features))


@pytest.mark.parametrize("name", SPACES)
def test_paths_networks_and_costs_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    list_shapes_once(monkeypatch)
    space = SPACES[name]
    supernet, costs = Supernet(space, dropout=0.0).eval(), count(space)
    images = torch.randn(2, 3, 8, 8)
    for path in itertools.islice(itertools.product(*(range(len(layer.choices)) for layer in space.layers)), 0, 90, 7):
        arch = Architecture(path)
        network = Network(space, arch, affine=False, dropout=0.0).eval()
        for ours, theirs in zip(network.features, supernet.select_blocks(arch), strict=True):
            ours.load_state_dict(theirs.state_dict())
        for part in ("first_conv", "conv_last", *(["head_linear"] if space.head_linear else []), "classifier"):
            getattr(network, part).load_state_dict(getattr(supernet, part).state_dict())
        assert torch.equal(network(images), supernet(images, arch))
        if not space.layers[0].split:
            torch.testing.assert_close(supernet(images, arch), run_plainly(supernet, images, arch))
        with torch.device("meta"):
            affine = Network(space, arch).eval()
            assert costs.flops.of(arch) == count_multiply_adds(affine, torch.empty(1, 3, 8, 8))
        assert costs.params.of(arch) == count_parameters(affine)
        assert infer_architecture(space, affine.state_dict()) == arch


@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("name", SPACES)
def test_candidates_are_calibrated_as_in_plain_pytorch_and_independently(name: str, amp: str) -> None:
    space = SPACES[name]
    supernet = Supernet(space, dropout=0.0).eval()
    training = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    images = torch.randn(6, 3, 8, 8)
    archs = [Architecture(path) for path in itertools.product(*(range(len(layer.choices)) for layer in space.layers))]
    before = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}

    def compute_logits(group: list[Architecture]) -> dict[Architecture, Tensor]:
        tree = calibrate_paths(
            supernet,
            group,
            lambda pixels: pixels.float() / 255,
            CalibrationSet(training, 20),
            torch.device("cpu"),
            amp,  # type: ignore[arg-type]
        )
        assert tree is not None
        with torch.inference_mode():
            return {group[number]: values.clone() for number, values in tree.logits(images)}

    together = compute_logits(archs[::5])
    for arch in archs[::15]:
        assert torch.equal(compute_logits([arch])[arch], together[arch])
    assert all(torch.equal(tensor, before[key]) for key, tensor in supernet.state_dict().items())
    if amp == "off":
        for arch, ours in list(together.items())[::4]:
            supernet.load_state_dict(before)
            supernet.train()
            for number, part in enumerate(training.split(20), 1):
                for module in supernet.modules():
                    if isinstance(module, torch.nn.BatchNorm2d):
                        module.momentum = 1 / number
                with torch.no_grad():
                    supernet(part.float() / 255, arch)
            supernet.eval()
            torch.testing.assert_close(ours, supernet(images, arch).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ops", [make_choices({"shuffle": {"kernel": 3}}, "shuffle_xception"), SHUFFLES])
def test_shuffle_blocks_compute_the_same_beside_identity(ops: tuple[Choice, ...]) -> None:
    """Channels are routed, or handed to each layer as a whole because a layer may be the identity."""
    routed = Supernet(SearchSpace((Stage(3, 12), Stage(3, 20)), ops, 8, 5, 8, 1, 16), dropout=0.0)
    whole = Supernet(
        SearchSpace((Stage(3, 12), Stage(3, 20)), (*ops, *make_choices("identity")), 8, 5, 8, 1, 16), dropout=0.0
    )
    whole.load_state_dict(routed.state_dict())
    images, arch = torch.randn(4, 3, 8, 8), Architecture((0, 1, 0, 1, 1, 0))
    torch.testing.assert_close(whole(images, arch), routed(images, arch))


def test_names_distinguish_a_supernet_from_a_network() -> None:
    for space in SPACES.values():
        assert detect_kind(Supernet(space).state_dict()) == "supernet"
        arch = Architecture(tuple(len(layer.choices) - 1 for layer in space.layers))
        assert detect_kind(Network(space, arch).state_dict()) == "network"


class Scaled(torch.nn.Module):
    """A user's own block with a BatchNorm1d, and with a parameter that our initialisation does not fill."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, affine: bool, inplace: int = 0) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(in_channels, out_channels, 3, stride, 1)
        self.norm = torch.nn.BatchNorm1d(out_channels)
        self.scale = torch.nn.Parameter(torch.randn(out_channels))
        self.first = torch.nn.ReLU(inplace=bool(inplace))

    def forward(self, features: Tensor) -> Tensor:
        output: Tensor = self.conv(self.first(features))  # (B, out_channels, H', W')
        return output * self.norm(output.mean((2, 3)))[..., None, None] * self.scale[:, None, None]


def make_own_space(**parameters: int) -> SearchSpace:
    ops = make_choices(
        {"mbconv": {"kernel": 3, "expand": 1}},
        {f"{__name__}:Scaled": parameters} if parameters else f"{__name__}:Scaled",
    )
    return SearchSpace((Stage(2, 8),), ops, 8, 5, 4, 1, 8)


def test_every_weight_depends_on_the_seed_alone() -> None:
    states = []
    for _ in range(2):
        torch.rand(3)
        before = torch.get_rng_state()
        states.append(build_initialized(lambda: Supernet(make_own_space()), 7).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    other = build_initialized(lambda: Supernet(make_own_space()), 8).state_dict()
    assert not torch.equal(other["features.0.1.block.scale"], states[0]["features.0.1.block.scale"])


def test_a_block_that_changes_its_input_is_refused() -> None:
    count(make_own_space())
    with pytest.raises(ConfigError, match="changes its input in place"):
        count(make_own_space(inplace=1))


def test_every_detect_kind_batchnorm_is_calibrate_paths() -> None:
    supernet = build_initialized(lambda: Supernet(make_own_space(), dropout=0.0), 0).eval()
    training = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    arch = Architecture((1, 1))
    tree = calibrate_paths(
        supernet, [arch], lambda p: p.float() / 255, CalibrationSet(training, 20), torch.device("cpu")
    )
    assert tree is not None
    images = torch.randn(6, 3, 8, 8)
    with torch.inference_mode():
        ((_, ours),) = tree.logits(images)

    class Path(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.supernet = supernet

        def forward(self, batch: Tensor) -> Tensor:
            logits: Tensor = self.supernet(batch, arch)
            return logits

    calibrate(Path(), [part.float() / 255 for part in training.split(20)])
    torch.testing.assert_close(ours.clone(), supernet(images, arch).detach(), rtol=1e-4, atol=1e-5)


def test_choices_with_equal_tensors_cannot_be_inferred() -> None:
    ops = make_choices({"mbconv": {"kernel": 3, "expand": 1}}, f"{__name__}:Pool", "identity")
    space = SearchSpace((Stage(2, 8),), ops, 8, 5, 4, 1, 8)
    network = Network(space, Architecture((0, 1)))
    with pytest.raises(CheckpointError, match=r"may be any of 1 \(Pool\), 2 \(identity\)"):
        infer_architecture(space, network.state_dict())
    assert infer_architecture(space, Network(space, Architecture((1, 0))).state_dict()) == Architecture((1, 0))


class Pool(torch.nn.Module):
    """A user's own block without parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride, self.copies = stride, out_channels // in_channels

    def forward(self, features: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(features, 3, self.stride, 1).repeat(1, self.copies, 1, 1)


def test_batchnorm_of_some_channels_sorts_nothing_in_its_backward_pass() -> None:
    """An index in brackets has the same gradients, but sorts indices on a GPU."""
    norm = BatchNorm(6)
    torch.nn.init.normal_(norm.weight)
    channels, factors = torch.tensor([4, 0, 5, 2]), torch.randn(4)
    selected = norm.select_scale_and_shift(channels)
    assert selected is not None
    assert [type(values.grad_fn).__name__ for values in selected] == ["IndexSelectBackward0"] * 2
    (selected[0] * factors).sum().backward()
    gradient = norm.weight.grad
    norm.weight.grad = None
    (norm.weight[channels] * factors).sum().backward()
    assert torch.equal(selected[0], norm.weight[channels])
    assert gradient is not None
    assert torch.equal(gradient, norm.weight.grad)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("outputs", [12, 16])
@pytest.mark.parametrize("name", ["basic", "bottleneck"])
def test_resnet_blocks_equal_torchvisions(name: str, stride: int, outputs: int) -> None:
    layer = Layer(0, 12, outputs, stride, 9, (), False)
    choice = Choice.from_spec({name: {"kernel": 3}})
    ours = build_block(choice, layer, affine=True).eval()
    shortcut = None
    if (stride, outputs) != (1, 12):
        shortcut = nn.Sequential(nn.Conv2d(12, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    planes = outputs if name == "basic" else outputs // 4
    make_oracle: type[nn.Module] = resnet.BasicBlock if name == "basic" else resnet.Bottleneck
    theirs = make_oracle(12, planes, stride, shortcut).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    assert layer.has_shortcut(choice) == (shortcut is None)
    images = torch.randn(2, 12, 9, 9)
    torch.testing.assert_close(ours(images)[0], theirs(images))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("expand", [1, 4])
def test_fused_inverted_residual_equals_torchvisions(expand: int, stride: int) -> None:
    layer = Layer(0, 8, 8, stride, 9, (), False)
    choice = Choice.from_spec({"fused_mbconv": {"kernel": 3, "expand": expand, "activation": "silu"}})
    ours = build_block(choice, layer, affine=True).eval()
    theirs = FusedMBConv(FusedMBConvConfig(expand, 3, stride, 8, 8, 1), 0.0, nn.BatchNorm2d).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(ours(images)[0], theirs(images))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "hswish", "silu"])
def test_gates_of_inverted_residuals_equal_torchvisions(activation: str, stride: int) -> None:
    """With SiLU against EfficientNet's, whose squeeze depends on the input, else against MobileNetV3's."""
    layer = Layer(0, 40, 40, stride, 9, (), False)
    parameters = {"kernel": 5, "expand": 3, "se": 0.25, "activation": activation}
    ours = build_block(Choice.from_spec({"mbconv": parameters}), layer, affine=True).eval()
    theirs: nn.Module
    if activation == "silu":
        theirs = MBConv(MBConvConfig(3, 5, stride, 40, 40, 1), 0.0, nn.BatchNorm2d)
    else:
        kind = {"relu": "RE", "hswish": "HS"}[activation]
        config = InvertedResidualConfig(40, 5, 120, 40, True, kind, stride, 1, 1.0)
        theirs = mobilenetv3.InvertedResidual(config, nn.BatchNorm2d)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.eval().state_dict().values(), strict=True)))
    images = 8 * torch.randn(2, 40, 9, 9)
    torch.testing.assert_close(ours(images)[0], theirs(images))


def test_shuffles_with_gates_are_those_of_shufflenet_v2_plus() -> None:
    """Against the block of megvii-model/ShuffleNet-Series, written out; but gates have biases instead of BatchNorm."""
    layer = Layer(0, 12, 20, 2, 8, (), False)
    choice = Choice.from_spec({"shuffle": {"kernel": 5, "activation": "hswish", "se": 0.25}})
    block = build_block(choice, layer, affine=True).eval()
    state, images = block.state_dict(), torch.randn(2, 12, 8, 8)

    def compute(name: str, features: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        groups = len(weight) if weight.shape[1] == 1 else 1
        features = F.conv2d(features, weight, None, stride, weight.shape[2] // 2, 1, groups)
        return features / (1 + 1e-5) ** 0.5  # BatchNorm with its first statistics

    main = F.hardswish(compute("branch_main.0", images))
    main = compute("branch_main.3", main, 2)
    main = F.hardswish(compute("branch_main.5", main))
    gate = main.mean((2, 3), keepdim=True)
    gate = F.conv2d(gate, state["branch_main.8.fc1.weight"], state["branch_main.8.fc1.bias"]).relu()
    assert gate.shape[1] == 2  # a quarter of the 8 channels of the main branch
    gate = F.conv2d(gate, state["branch_main.8.fc2.weight"], state["branch_main.8.fc2.bias"])
    main = main * torch.clamp(gate + 3, 0, 6) / 6
    projected = F.hardswish(compute("branch_proj.2", compute("branch_proj.0", images, 2)))
    torch.testing.assert_close(block(images)[0], torch.cat((projected, main), 1))


@pytest.mark.parametrize("expand", [1, 3])
def test_groups_are_convolutions_of_halves_with_a_shuffle_between_them(expand: int) -> None:
    """Each half of the hidden channels comes from one half of the input, and both halves see both."""
    layer, hidden = Layer(0, 12, 16, 2, 9, (), False), 12 * expand
    parameters = {"kernel": 3, "expand": expand, "groups": 2, "activation": "relu"}
    block = build_block(Choice.from_spec({"mbconv": parameters}), layer, affine=True).eval()
    first, depthwise, last = (tensor for tensor in block.state_dict().values() if tensor.dim() == 4)
    assert [tuple(one.shape) for one in (first, depthwise, last)] == [
        (hidden, 6, 1, 1),
        (hidden, 1, 3, 3),
        (16, hidden // 2, 1, 1),
    ]
    images, scale = torch.randn(2, 12, 9, 9), (1 + 1e-5) ** -0.5  # BatchNorm's with its first statistics
    halves = [F.conv2d(images[:, 6 * i : 6 * i + 6], first[i * hidden // 2 :][: hidden // 2]) for i in range(2)]
    shuffled = (torch.stack(halves, 2).flatten(1, 2) * scale).relu()  # (B, hidden, 9, 9), one of each half in turn
    worked = (F.conv2d(shuffled, depthwise, None, 2, 1, 1, hidden) * scale).relu()
    parts = [F.conv2d(worked[:, i * hidden // 2 :][:, : hidden // 2], last[8 * i : 8 * i + 8]) for i in range(2)]
    torch.testing.assert_close(block(images)[0], torch.cat(parts, 1) * scale)
