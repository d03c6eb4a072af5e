"""The images of a space with several image sizes: their caches and files, and networks of one of the sizes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spos_cli.config import loading
from spos_cli.config.schema import Config
from spos_cli.data.cache import CachedSet, ResizedSet
from spos_cli.engine import checkpoint
from spos_cli.errors import CheckpointError, ConfigError
from spos_cli.files.reading import read_json
from spos_cli.models.network import Network
from spos_cli.models.skeleton import build_initialized
from spos_cli.models.supernet import Supernet
from spos_cli.run.calibrated_path import build_calibrated_path
from spos_cli.run.command import Run
from spos_cli.run.images import Images
from spos_cli.run.inherited_weights import Inherited
from spos_cli.run.search_inputs import calibration_set, make_evaluator
from spos_cli.run.search_settings import list_decoded_images
from spos_cli.run.weights_file import Weights, make_network_content, make_supernet_content, read_weights
from spos_cli.search.evaluator import Evaluator, Score
from spos_cli.search.evaluator_by_size import EvaluatorBySize
from spos_cli.space.architecture import Architecture, parse
from tests.run.test_images import ONE_PROCESS, batches, equal, root, settings

__all__ = ["root"]  # a fixture

SIZES = ("space.image_sizes=[8, 12, 16]",)


def only(root: Path, side: int, *overrides: str) -> Config:
    """Return the settings of a space with one size, in a run folder of its own."""
    return settings(root, f"space.image_size={side}", f"run_dir={root}/run-{side}", *overrides)


def make_supernet(config: Config) -> Supernet:
    return build_initialized(lambda: Supernet(config.space.build(), dropout=0.0), 3).eval()


def write_supernet(config: Config, folder: Path) -> Weights:
    checkpoint.save(folder / "supernet.pt", make_supernet_content(config, make_supernet(config).state_dict()))
    return read_weights(folder / "supernet.pt")


def score(config: Config, arch: str) -> tuple[Score, Evaluator]:
    run, images = Run(config, as_json=True), Images(config, ONE_PROCESS)
    images.check()
    evaluator = make_evaluator(run, run.folder.search, make_supernet(config), images, ONE_PROCESS)
    (found,) = evaluator.score([parse(arch)]) or []
    return found, evaluator.evaluators[parse(arch).image_size] if isinstance(evaluator, EvaluatorBySize) else evaluator


@pytest.mark.parametrize("store", ["none", "disk"])
@pytest.mark.parametrize("side", [8, 12, 16])
def test_scores_and_images_are_those_of_a_space_with_that_size_only(root: Path, side: int, store: str) -> None:
    ours, evaluator = score(settings(root, *SIZES, f"data.store={store}"), f"{side}px,1")
    theirs, alone = score(only(root, side, f"data.store={store}"), "1")
    assert evaluator.images.shape == (4, 3, side, side)
    assert evaluator.images.equal(alone.images)
    assert evaluator.labels.equal(alone.labels)
    assert evaluator.calibration.images.equal(alone.calibration.images)
    assert np.array_equal(ours.top1, theirs.top1)
    assert replace(ours, top1=theirs.top1) == theirs


def test_each_size_has_its_files(root: Path) -> None:
    config = settings(root, *SIZES)
    score(config, "8px,0")
    names = list_decoded_images(config)
    assert names == [
        "scoring.u8",
        "calibration.u8",
        "scoring-8px.u8",
        "calibration-8px.u8",
        "scoring-12px.u8",
        "calibration-12px.u8",
    ]
    assert list_decoded_images(only(root, 8)) == names[:2]
    folder = Run(config).folder.search.path
    assert sorted(path.name for path in folder.glob("*.u8")) == sorted(names)
    shapes = [read_json(folder / f"{name}.json")["shape"][1] for name in names]
    assert shapes == [16, 16, 8, 8, 12, 12]


def test_what_was_read_is_read_once(root: Path) -> None:
    images = Images(settings(root, *SIZES), ONE_PROCESS)
    images.check()
    small = images.at_size(8)
    assert small.train is images.train
    assert small.val is images.val
    assert small.splits is images.splits
    assert small.bad_images is images.bad_images
    assert (small.size, small.evaluation.image_size, small.augmented.image_size) == (8, 8, 8)
    assert small.at_size(8) is small
    assert images.at_size(0) is images


def test_an_augmentation_must_fit_the_smallest_size(root: Path) -> None:
    padded = ("data.augmentation.crop=padded", "data.augmentation.padding=8")
    Images(settings(root, *padded), ONE_PROCESS).check()
    with pytest.raises(ConfigError, match="padding is 8, which can push an image of 8 pixels"):
        Images(settings(root, *SIZES, *padded), ONE_PROCESS).check()


def test_a_stand_alone_network_leaves_the_cache_of_the_supernet(root: Path) -> None:
    images = Images(settings(root, *SIZES, "data.store=disk"), ONE_PROCESS)
    ours = [batches(one) for one in (images, images.at_size(8), images)]
    assert equal(ours[0], ours[2])
    assert equal(ours[1], batches(Images(only(root, 8, "data.store=disk"), ONE_PROCESS)))
    cached = images.at_size(8).cached
    assert isinstance(cached, CachedSet)
    assert {path.name for path in (root / "run" / "store").glob("*.u8")} == {"train.u8", "train-8px.u8"}
    assert images.at_size(16) is images, "a network of the largest size shares the cache"
    whole, small = images.to_augment, images.at_size(8).to_augment
    assert isinstance(whole, ResizedSet)
    assert isinstance(small, ResizedSet)
    assert (whole.short_side, small.short_side) == (18, 9)


def test_a_path_is_calibrated_at_its_size(root: Path) -> None:
    """With the images that a search has left, or without them; as in a space with that size only."""
    config, arch, states = settings(root, *SIZES), "8px,1", []
    for scored in (False, True):
        if scored:
            score(config, arch)
        weights, images = write_supernet(config, root), Images(config, ONE_PROCESS).at_size(8)
        with calibration_set(Run(config, as_json=True), images, ONE_PROCESS) as calibration:
            assert calibration.images.shape == (10, 3, 8, 8)
        network = build_calibrated_path(Run(config, as_json=True), weights, arch, images)
        assert (network.space.image_size, network.space.image_sizes, str(network.arch)) == (8, (8,), arch)
        states.append(network.state_dict())
    alone = only(root, 8)
    weights = write_supernet(alone, root)
    states.append(
        build_calibrated_path(Run(alone, as_json=True), weights, "1", Images(alone, ONE_PROCESS)).state_dict()
    )
    for state in states[1:]:
        assert all(tensor.equal(states[0][name]) for name, tensor in state.items())


def write_network(config: Config, arch: Architecture, path: Path) -> Weights:
    state = build_initialized(lambda: Network(config.space.build(), arch), 3).state_dict()
    checkpoint.save(path, make_network_content(config, arch, state, ("cat", "cup"), {}))
    return read_weights(path)


def test_a_network_is_of_its_size(root: Path) -> None:
    config, arch = settings(root, *SIZES), parse("12px,1")
    weights = write_network(config, arch, root / "model.pt")
    content = checkpoint.load(root / "model.pt")
    assert content["architecture"] == ["12px", 1]
    assert (content["space"]["image_size"], content["space"]["image_sizes"]) == (12, [12])
    assert content["preprocessing"]["image_size"] == weights.trained_size == weights.find_trained_size(arch) == 12
    recorded = loading.validate(copy.deepcopy(weights.config or {}))
    network = weights.network(recorded)
    assert (network.arch, network.space.image_size) == (arch, 12)
    assert weights.network(config.at_size(12)).arch == arch
    # At another size it is a network without a size of the space.
    other = loading.validate(copy.deepcopy(weights.config or {}), ["space.image_size=10", "space.image_sizes=[]"])
    assert weights.network(other, any_size=True).arch == parse("1")
    with pytest.raises(CheckpointError, match=r"12 x 12 pixels, not of 10 x 10; set space\.image_size to 12"):
        weights.network(other)


def test_an_official_network_has_the_size_of_the_settings(root: Path) -> None:
    config = settings(root, *SIZES)
    weights = replace(write_network(config, parse("12px,1"), root / "model.pt"), architecture=None, config=None)
    found = [weights.find_architecture(one) for one in (config, config.at_size(8), only(root, 8))]
    assert list(map(str, found)) == ["16px,1", "8px,1", "1"]


def test_a_supernet_needs_the_same_sizes(root: Path) -> None:
    config = settings(root, *SIZES)
    weights = write_supernet(config, root)
    assert weights.supernet(config).space.image_sizes == (8, 12, 16)
    assert weights.find_trained_size(parse("12px,1")) == 12
    with pytest.raises(CheckpointError, match=r"12 x 12, 16 x 16 pixels, not of 16 x 16; set space\.image_sizes"):
        weights.supernet(settings(root))
    with pytest.raises(CheckpointError, match=r"not of 8 x 8; write a path of it"):
        weights.supernet(only(root, 8))


def test_weights_are_inherited_at_any_size(root: Path) -> None:
    config, classes = settings(root, *SIZES), ("cat", "cup")
    network = Network(config.space.build(), parse("8px,1"))
    from_supernet = Inherited(write_supernet(config, root), "")
    assert not from_supernet.fill(network, config, classes)
    supernet = make_supernet(config).state_dict()
    assert network.conv_last.state_dict()["0.weight"].equal(supernet["conv_last.0.weight"])
    from_network = Inherited(write_network(config, parse("12px,1"), root / "model.pt"), "")
    assert not from_network.fill(network, config, classes)
    expected = from_network.weights.state
    assert all(tensor.equal(expected[name]) for name, tensor in network.state_dict().items())
    with pytest.raises(CheckpointError, match="is of the architecture 12px,1, not 8px,0"):
        from_network.fill(Network(config.space.build(), parse("8px,0")), config, classes)
    from_other = Inherited(write_supernet(settings(root), root), "")
    assert not from_other.fill(torch.nn.Module.eval(Supernet(config.space.build())), config, classes)
