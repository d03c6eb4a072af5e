"""Official files through `spos`: checkpoints, FLOPs table, search and architecture, in and out."""

from __future__ import annotations

import collections
import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage import data as photographs
from torchvision import transforms as classic

from spos_cli.engine import checkpoint
from spos_cli.models.network import Network
from spos_cli.models.supernet import Supernet
from spos_cli.official.golden import WINNER, fill_weights, make_images
from spos_cli.search.journal import Journal
from spos_cli.space.search_space import OFFICIAL_SPACE
from tests.conftest import Mistake, Spos
from tests.models import reference
from tests.official.test_flops_table import make_official_table
from tests.runs import SHORT_AUDIT

pytestmark = pytest.mark.slow

PHOTOS = {"birds": ("astronaut", "chelsea"), "cats": ("coffee", "rocket"), "dogs": ("camera", "hubble_deep_field")}
TINY_ARCHS = [(0, 1, 2, 3), (3, 2, 1, 0), (1, 1, 1, 1), (2, 2, 2, 2), (0, 3, 0, 3)]


def official_checkpoint(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Return a checkpoint as the official code writes it."""
    return {"state_dict": collections.OrderedDict((f"module.{name}", tensor) for name, tensor in state.items())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real photographs as JPEG files: wide, tall, square, small, large, grey, and one of the crop's own size."""
    root = tmp_path_factory.mktemp("photographs")
    for label, names in PHOTOS.items():
        (root / "val" / label).mkdir(parents=True)
        for name in names:
            photo = getattr(photographs, name)()
            Image.fromarray(photo).save(root / "val" / label / f"{name}.jpg", quality=92)
            Image.fromarray(photo[:100, :170]).save(root / "val" / label / f"{name}-small.JPEG", quality=92)
    Image.fromarray(photographs.astronaut()[:224, :224]).save(root / "val" / "cats" / "224.jpg")
    Image.fromarray(photographs.rocket().transpose(1, 0, 2)).save(root / "val" / "dogs" / "tall.jpg")
    return root


def opencv_pipeline(path: Path) -> torch.Tensor:
    """Apply the official validation transform: OpenCV's resize, torchvision's centre crop, BGR, 0 to 255."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    height, width = pixels.shape[:2]
    target = (int(256 / height * width + 0.5), 256) if height < width else (256, int(256 / width * height + 0.5))
    resized = cv2.resize(np.ascontiguousarray(pixels[:, :, ::-1]), target, interpolation=cv2.INTER_LINEAR)
    cropped = np.asarray(classic.CenterCrop(224)(Image.fromarray(np.ascontiguousarray(resized[:, :, ::-1]))))
    return torch.from_numpy(np.ascontiguousarray(cropped[:, :, ::-1].transpose(2, 0, 1))).float()


@pytest.fixture(scope="module")
def winner() -> dict[str, torch.Tensor]:
    """The official winner with the weights and statistics of the golden numbers."""
    network = Network(OFFICIAL_SPACE, WINNER)
    fill_weights(network)
    return network.state_dict()


def test_the_oracle_is_the_official_network(winner: dict[str, torch.Tensor]) -> None:
    golden = json.loads((Path(__file__).parents[1] / "official/golden/network_logits.json").read_text())
    for case in golden[:3]:
        network = Network(OFFICIAL_SPACE, WINNER.__class__(tuple(case["architecture"])))
        fill_weights(network)
        with torch.no_grad():
            logits = reference.logits(network.state_dict(), case["architecture"], make_images(2, 7))
        assert float(logits.double().norm()) == pytest.approx(case["eval_l2"], rel=1e-5)


@pytest.mark.parametrize("modern", [True, False], ids=["zip", "before 1.6"])
def test_an_official_network_gives_the_official_logits(
    spos: Spos, folder: Path, winner: dict[str, torch.Tensor], modern: bool
) -> None:
    """JPEG files through `spos evaluate`, against OpenCV and the plain network; the architecture is inferred."""
    torch.save(official_checkpoint(winner), spos.folder / "any name", _use_new_zipfile_serialization=modern)
    command = ("evaluate", "--weights", "any name", "--config", "imagenet_published", "--set", f"data.root={folder}")
    run = spos if modern else spos.here
    done = run(*command, "--save-logits", "logits.npz", "--set", "data.workers=2", "--devices", "cpu", "--json")
    result = json.loads(done.stdout)
    assert "3 of the network's 1000 classes" in done.stderr
    assert (result["flops"], result["params"], result["images"]) == (322918720, 3558464, 14)

    saved = np.load(spos.folder / "logits.npz")
    images = torch.stack([opencv_pipeline(folder / "val" / path) for path in saved["paths"]])
    with torch.no_grad():
        expected = reference.logits(winner, list(WINNER), images).numpy()
    scale = np.sqrt((expected**2).mean())
    assert np.abs(saved["logits"] - expected).max() < 1e-3 * scale
    assert np.abs(expected[0] - expected[1]).max() > 0.1 * scale  # The images do matter.
    labels = [sorted(PHOTOS).index(Path(path).parent.name) for path in saved["paths"].tolist()]
    assert saved["labels"].tolist() == labels
    for count in (1, 5):
        top = np.argsort(-expected, 1)[:, :count]
        assert result[f"top{count}"] == np.mean([label in row for label, row in zip(labels, top, strict=True)])


def test_a_round_trip_keeps_every_byte(spos: Spos, winner: dict[str, torch.Tensor]) -> None:
    """From official to ours to official, for the network and for the supernet."""
    supernet = Supernet(OFFICIAL_SPACE)
    fill_weights(supernet)
    imagenet = ("--config", "imagenet_published", "--run-dir", "r", "--json")
    for state in (winner, supernet.state_dict()):
        kind = "network" if state is winner else "supernet"
        torch.save(official_checkpoint(state), spos.folder / f"{kind}.pth.tar")
        ours = json.loads(
            spos.here("export-arch", "--weights", f"{kind}.pth.tar", "--format", "spos", *imagenet).stdout
        )
        assert ours["kind"] == checkpoint.load(spos.folder / ours["file"])["kind"] == kind
        back = json.loads(spos.here("export-arch", "--weights", ours["file"], *imagenet, "-o", f"{kind} again").stdout)
        again = torch.load(spos.folder / back["file"], weights_only=True)
        assert list(again) == ["state_dict"]
        assert list(again["state_dict"]) == [f"module.{name}" for name in state]
        for name, tensor in state.items():
            other = again["state_dict"][f"module.{name}"]
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
            assert other.numpy().tobytes() == tensor.numpy().tobytes()
    message = spos.here("export-arch", "--weights", "network.pth.tar", "--format", "spos", *imagenet, code=2).stderr
    assert "name another file with --output" in message


def test_the_official_flops_table(spos: Spos) -> None:
    (spos.folder / "op_flops_dict.pkl").write_bytes(pickle.dumps(make_official_table(), 2))
    imagenet = ("flops-table", "--config", "imagenet", "--run-dir", "r", "--json")
    assert json.loads(spos.here(*imagenet, "--import", "op_flops_dict.pkl").stdout) == {
        "compared": 34,
        "differences": [],
        "kept": 1,
    }
    kept = json.loads((spos.folder / "r" / "flops_widths.json").read_text())
    assert kept == [{"op": "shufflenet_3x3_stride_1", "key": [64, 64, 12, 56, 56, 1], "flops": 2747136}]
    spos.here(*imagenet, "--format", "pkl")
    written = pickle.loads((spos.folder / "r" / "op_flops_dict.pkl").read_bytes())
    del (table := make_official_table())["shufflenet_3x3_stride_1"][64, 64, 12, 56, 56, 1]
    assert written == table


@pytest.fixture(scope="module")
def tiny(finished: Spos) -> dict[str, Any]:
    """An official search of the tiny space: five scored candidates and one that was only drawn."""
    vis_dict: dict[Any, Any] = {
        choices: {"err": (0.5 - 0.05 * index, 0.1), "visited": True} for index, choices in enumerate(TINY_ARCHS)
    }
    vis_dict[0, 0, 0, 0] = {"flops": 10**9}
    return {"memory": [], "candidates": [], "vis_dict": vis_dict, "keep_top_k": {10: [], 50: []}, "epoch": 20}


def test_an_official_search_is_exported(spos: Spos, tiny: dict[str, Any]) -> None:
    torch.save(tiny, spos.folder / "checkpoint.pth.tar")
    done = spos.here("export-arch", "--from", "checkpoint.pth.tar", "--top", 2, "--format", "pkl", "--json")
    found = json.loads(done.stdout)
    assert [tuple(entry["architecture"]) for entry in found] == [TINY_ARCHS[4], TINY_ARCHS[3]]
    assert found[0]["top1"] == pytest.approx(0.7)
    assert pickle.loads((spos.folder / found[0]["file"]).read_bytes()) == TINY_ARCHS[4]
    costs = json.loads(spos.here("flops-table", found[0]["file"], "--json").stdout)
    assert costs[0]["architecture"] == list(TINY_ARCHS[4])
    assert costs[0]["flops"] == found[0]["flops"]


def test_an_official_search_is_continued(finished: Spos, spos: Spos, tiny: dict[str, Any]) -> None:
    """From the official supernet and the official scores. Resumed, and in two processes, it gives the same bytes."""
    torch.save(tiny, spos.folder / "checkpoint.pth.tar", _use_new_zipfile_serialization=False)
    state = checkpoint.load(finished.run / "supernet" / "last.pt")["model"]
    torch.save(official_checkpoint(state), spos.folder / "supernet.pth.tar")
    command = ("search", "--weights", "supernet.pth.tar", "--from", "checkpoint.pth.tar")
    message = spos.here(*command).stdout
    assert "beginning with 5 candidates of another search" in message
    assert "the 5 best under the limits are scored again" in message
    journal = spos.run / "search" / "journal.jsonl"
    whole = journal.read_bytes()
    entries = [json.loads(line) for line in whole.splitlines()]
    assert [tuple(entry["architecture"]) for entry in entries[:5]] == TINY_ARCHS
    first = entries[5:11]  # A generation is in the order of its architectures.
    assert sorted(entry["origin"] for entry in first) == ["random"] + ["rescored"] * 5
    assert [entry["architecture"] for entry in first] == sorted(entry["architecture"] for entry in first)
    assert {entry["origin"] for entry in entries[:5]} == {"imported"}
    assert {tuple(entry["architecture"]) for entry in first if entry["origin"] == "rescored"} == {*TINY_ARCHS}
    assert len({tuple(entry["architecture"]) for entry in entries[5:]}) == len(entries) - 5 == 18
    # The imported scores were better than any here, but they neither win nor are statistically tied.
    result = yaml.safe_load((journal.parent / "result.yaml").read_text())
    own = sorted(Journal(journal).read()[5:], key=lambda entry: entry.rank)
    assert [one["architecture"] for one in result["best"]] == [entry.architecture.to_list() for entry in own[:10]]
    assert (result["candidates"], result["best"][0]["tied"]) == (18, True)
    assert "5 more from another search" in spos.here("status").stdout
    audited = json.loads(spos.here("audit", "--weights", "supernet.pth.tar", *SHORT_AUDIT, "--json").stdout)
    assert audited["evolution"][0]["best"][-1] == result["best"][0]["top1"]

    journal.write_bytes(b"".join(whole.splitlines(keepends=True)[:10]))  # As after a kill.
    spos.here("search", "--weights", "supernet.pth.tar")
    assert journal.read_bytes() == whole
    spos.together(*command, "--run-dir", "two")
    assert (spos.folder / "two" / "search" / "journal.jsonl").read_bytes() == whole
    larger = (*command[:3], "--set", "space.image_size=16")  # No tensor of the official weights tells this.
    assert "(space.image_size: 16, was 8)" in spos.here(*larger, code=2).stderr
    tiny["vis_dict"][1, 2, 3, 1] = {"err": (0.1, 0.1)}
    torch.save(tiny, spos.folder / "checkpoint.pth.tar")
    assert "has begun without the candidates of --from" in spos.here(*command, code=2).stderr


def test_our_weights_and_their_official_form_score_the_same(finished: Spos, spos: Spos) -> None:
    ours = finished.run / "supernet" / "last.pt"
    spos.here("export-arch", "--weights", ours, "--output", "supernet.pth.tar")
    results = [
        json.loads(spos.here("evaluate", "--weights", weights, "--arch", "0,1,2,3", "--json").stdout)
        for weights in (ours, "supernet.pth.tar")
    ]
    assert [result["top1"] for result in results] == [results[0]["top1"]] * 2
    (model,) = finished.run.glob("retrain/*/model.pt")
    spos.here("export-arch", "--weights", model, "--output", "network.pth.tar")
    results = [
        json.loads(spos.here("evaluate", "--weights", file, "--json").stdout) for file in (model, "network.pth.tar")
    ]
    assert results[0]["top1"] == results[1]["top1"]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)  # The number of threads may differ.


def test_the_same_network_as_other_tools_save_it(finished: Spos, spos: Spos) -> None:
    """Without counters, compiled, under other names, and as an average beside other weights."""
    (model,) = finished.run.glob("retrain/*/model.pt")
    state = checkpoint.load(model)["model"]
    others = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    contents = [
        {"state_dict": {name: tensor for name, tensor in state.items() if "num_batches" not in name}},
        {"model": state, "epoch": 3},
        {"state_dict": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}},
        {"state_dict": others, "state_dict_ema": state},
    ]
    command = ("evaluate", "--json", "--weights")
    expected = json.loads(spos.here(*command, model).stdout)["top1"]
    for content in contents:
        torch.save(content, spos.folder / "other.pth")
        assert json.loads(spos.here(*command, "other.pth").stdout)["top1"] == expected
    content = {key: value for key, value in checkpoint.load(model).items() if key != "kind"}
    torch.save(content, spos.folder / "other.pth")
    assert "it does not say what it is" in spos.here(*command, "other.pth", code=2).stderr
    torch.save({**content, "kind": "network", "classes": None}, spos.folder / "other.pth")
    assert "its classes cannot be read" in spos.here(*command, "other.pth", code=2).stderr


def test_mistakes_with_official_files(finished: Spos, spos: Spos, mistake: Mistake) -> None:
    """Each is one line."""
    state = checkpoint.load(finished.run / "supernet" / "last.pt")["model"]
    torch.save(official_checkpoint(state), spos.folder / "supernet.pth.tar")
    torch.save({"vis_dict": {(9,) * 4: {"err": (0.1, 0.1)}}}, spos.folder / "search.pth.tar")
    (spos.folder / "arch.pkl").write_bytes(pickle.dumps(Path("x")))
    for command, phrase in [
        (("evaluate", "--weights", "supernet.pth.tar"), "is a supernet; name the path"),
        (("evaluate", "--weights", "search.pth.tar"), "is neither a weights file of spos nor an official one"),
        (("search", "--weights", "supernet.pth.tar", "--set", "space.classes=9"), "does not fit the model"),
        (("search", "--weights", "supernet.pth.tar", "--from", "supernet.pth.tar"), "holds no search"),
        (("search", "--weights", "supernet.pth.tar", "--from", "nothing"), "cannot read nothing"),
        (("export-arch", "--from", "search.pth.tar"), "is not in this space: layer 0 has choice 9"),
        (("export-arch", "--format", "published"), "is for weights; name them with --weights"),
        (("export-arch", "--weights", "supernet.pth.tar", "--format", "pkl"), "is for architectures"),
        (("retrain", "arch.pkl"), "arch.pkl is not read: it would run code"),
        (("flops-table", "--import", "arch.pkl"), "arch.pkl is not read: it would run code"),
        (("flops-table", "--import", "nothing.pkl"), "cannot read nothing.pkl"),
    ]:
        message = mistake(*command)
        assert phrase in message
        assert message.count("\n") == 1
