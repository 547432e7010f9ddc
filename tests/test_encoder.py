"""R(2+1)D by its published counts and names, checkpoints of every layout, freezing."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from etad.gradients import SnippetEncoder
from etad.model.encoder import R2Plus1D, load_encoder, r2plus1d, r2plus1d_small


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def tiny(variant: Any = "tsp") -> R2Plus1D:
    """Planes so small that the variants differ in few weights."""
    return R2Plus1D(layers=(1, 2, 1, 1), planes=(8, 12, 16, 16), variant=variant)


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        assert round(count(r2plus1d()) / 1e6, 1) == 63.5
        assert round(count(r2plus1d(variant="torchvision")) / 1e6, 1) == 61.6
        eighteen = r2plus1d(layers=(2, 2, 2, 2), variant="torchvision")
        assert count(eighteen) + 400 * 513 == 31_505_325  # torchvision's, with its layer of 400 classes
        assert count(r2plus1d_small()) < 1e6


def names(layers: tuple[int, ...]) -> set[str]:
    """torchvision's names, written down from its printed model."""

    def norm(at: str) -> set[str]:
        return {f"{at}.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}

    found = {"stem.0.weight", "stem.3.weight"} | norm("stem.1") | norm("stem.4")
    for stage, depth in enumerate(layers, 1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            for conv in ("conv1", "conv2"):
                found |= {f"{at}.{conv}.0.0.weight", f"{at}.{conv}.0.3.weight"}
                found |= norm(f"{at}.{conv}.0.1") | norm(f"{at}.{conv}.1")
            if block == 0 and stage > 1:
                found |= {f"{at}.downsample.0.weight"} | norm(f"{at}.downsample.1")
    return found


def test_names_and_shapes_are_those_of_the_checkpoints() -> None:
    with torch.device("meta"):
        tsp, torchvision = r2plus1d(), r2plus1d(variant="torchvision")
    shapes = {name: tuple(t.shape) for name, t in tsp.state_dict().items()}
    assert set(shapes) == set(torchvision.state_dict()) == names((3, 4, 6, 3))
    assert shapes["stem.0.weight"] == (45, 3, 1, 7, 7)
    assert shapes["stem.3.weight"] == (64, 45, 3, 1, 1)
    assert shapes["layer1.0.conv1.0.0.weight"] == (144, 64, 1, 3, 3)
    assert shapes["layer1.0.conv1.0.3.weight"] == (64, 144, 3, 1, 1)
    assert shapes["layer2.0.conv1.0.0.weight"] == (230, 64, 1, 3, 3)
    assert shapes["layer2.0.conv2.0.0.weight"] == (288, 128, 1, 3, 3)  # its own planes'
    assert tuple(torchvision.layer2[0].conv2[0][0].weight.shape) == (230, 128, 1, 3, 3)  # the first one's
    eps = {type(m): m.eps for m in tsp.modules() if isinstance(m, nn.BatchNorm3d)}
    assert set(eps.values()) == {1e-3}


def test_clips_become_features_one_by_one() -> None:
    torch.manual_seed(0)
    network = tiny().eval()
    clips = torch.randn(3, 3, 8, 20, 24)
    with torch.no_grad():
        together = network(clips)
        assert together.shape == (3, 16)
        for clip, feature in zip(clips, together, strict=True):
            torch.testing.assert_close(network(clip[None])[0], feature, rtol=1e-4, atol=1e-5)
        x = clips
        for stage in network.stages:
            x = stage(x)
        assert x.shape == (3, 16, 1, 2, 2)  # time by 8, space by 16
        torch.testing.assert_close(x.flatten(2).mean(2), together)


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_flat_convolutions_are_the_whole_ones(frames: int, dtype: torch.dtype) -> None:
    """Against a convolution of three dimensions in float32, forward and back."""
    torch.manual_seed(0)
    network = tiny()
    for factored, n in (
        (network.stem, 0),
        (network.stem, 3),
        (network.layer2[0].conv1[0], 0),
        (network.layer2[0].conv1[0], 3),
    ):
        conv = factored[n]
        x = torch.randn(3, conv.in_channels, frames, 9, 7)
        weight = conv.weight.detach().clone().requires_grad_()
        plain = F.conv3d(x, weight, None, conv.stride, conv.padding)
        expected = plain.detach()
        conv.to(dtype)
        flat = conv(x.to(dtype).contiguous(memory_format=torch.channels_last_3d))
        assert flat.is_contiguous(memory_format=torch.channels_last_3d)
        tolerance = 1e-5 if dtype == torch.float32 else 0.03
        up = torch.randn_like(plain)
        plain.backward(up)
        flat.backward(up.to(dtype))
        assert float((flat.detach().float() - expected).abs().max()) <= tolerance * float(expected.abs().max())
        assert float((conv.weight.grad.float() - weight.grad).abs().max()) <= tolerance * float(weight.grad.abs().max())


def test_convolution_and_norm_are_one_where_nothing_is_learnt() -> None:
    """The same numbers as with gradient, whatever the statistics."""
    torch.manual_seed(0)
    network = tiny().double()
    for m in network.modules():
        if isinstance(m, nn.BatchNorm3d):
            for t in (m.running_mean, m.weight, m.bias):
                nn.init.normal_(t)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
    clips = torch.randn(2, 3, 8, 16, 16, dtype=torch.float64)
    network.eval()
    learning = network(clips).detach()
    with torch.no_grad():
        torch.testing.assert_close(network(clips), learning, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(network.requires_grad_(False)(clips), learning, rtol=1e-9, atol=1e-9)
        network.train()
        assert not torch.allclose(network(clips), learning)  # statistics of the batch


def test_a_wrong_shape_of_network_is_refused() -> None:
    with pytest.raises(ValueError, match="four stages"):
        r2plus1d(layers=(1, 1, 1))
    with pytest.raises(ValueError, match="tsp or torchvision"):
        r2plus1d(variant="caffe")  # type: ignore[arg-type]


LAYOUTS = {
    "tsp": lambda state: {
        "model": {f"features.{k}": v for k, v in state.items()} | {"fc1.weight": torch.zeros(2, 3)},
        "optimizer": {"state": {}},
        "epoch": 5,
        "args": argparse.Namespace(lr=0.1, backbone="r2plus1d_34"),
    },
    "authors": lambda state: {
        "state_dict": {f"feature_extractor.model.backbone.{k}": v for k, v in state.items()}
        | {"base_detector.tem.0.weight": torch.zeros(3)},
        "epoch": 5,
    },
    "torchvision": lambda state: {**state, "fc.weight": torch.zeros(400, 16), "fc.bias": torch.zeros(400)},
    "old torchvision": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    "ours": lambda state: {"state_dict": {f"encoder.network.{k}": v for k, v in state.items()}, "meta": {"mark": "x"}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpoints_of_every_layout_load(layout: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = {name: torch.rand_like(t.float()).to(t.dtype) for name, t in tiny().state_dict().items()}
    torch.save(LAYOUTS[layout](state), tmp_path / "w.pth")
    network = tiny()
    load_encoder(network, tmp_path / "w.pth")
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]) or name.endswith("num_batches_tracked"), name


def test_checkpoints_that_do_not_fit_name_the_file_and_the_tensor(tmp_path: Path) -> None:
    path, state = tmp_path / "w.pth", tiny("torchvision").state_dict()

    def refused(held: Any, words: str) -> None:
        torch.save(held, path)
        network = tiny()
        before = {k: v.clone() for k, v in network.state_dict().items()}
        with pytest.raises(ValueError, match=words) as error:
            load_encoder(network, path)
        assert str(path) in str(error.value)
        assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())

    refused(state, r"layer2\.0\.conv2\.0\.0\.weight is .* not .*variants tsp and torchvision")
    refused({k: v for k, v in tiny().state_dict().items() if "layer4" not in k}, r"layer4\S* is missing")
    refused({"state_dict": {"fc.weight": torch.zeros(2)}}, "no encoders of this kind")
    both = {f"{p}.{k}": v for p in ("a", "b") for k, v in tiny().state_dict().items()}
    refused(both, "holds 2 encoders")
    refused({"epoch": 3}, "not a checkpoint")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"w\.pth: not a whole checkpoint"):
        load_encoder(tiny(), path)


def snippet_encoder(network: nn.Module, frozen: int | None, channels: int = 16) -> SnippetEncoder:
    return SnippetEncoder(
        network=network,
        channels=channels,
        frozen_stages=frozen,
        mean=(110.0, 100.0, 90.0),
        std=(50.0, 60.0, 70.0),
        chunk=2,
    )


@pytest.mark.parametrize(("frozen", "stages"), [(None, 0), (0, 1), (2, 3), (4, 5)])
def test_frozen_stages_and_normalisation_get_no_gradient(frozen: int | None, stages: int) -> None:
    network = tiny()
    encoder = snippet_encoder(network, frozen)
    norms = {id(p) for m in network.modules() if isinstance(m, nn.BatchNorm3d) for p in m.parameters()}
    for n, stage in enumerate(network.stages):
        for p in stage.parameters():
            assert p.requires_grad == (n >= stages and id(p) not in norms)
    assert [id(p) for p in encoder.trained()] == [id(p) for p in network.parameters() if p.requires_grad]


def test_an_encoder_stays_in_evaluation_mode() -> None:
    encoder = nn.ModuleList([snippet_encoder(tiny(), 2)]).train()[0]
    assert not any(m.training for m in encoder.modules())
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    encoder(torch.randint(0, 255, (1, 3, 3, 4, 16, 16), dtype=torch.uint8))
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


class Mean(nn.Module):
    """Anybody's network: the mean of each colour."""

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return clips.mean((2, 3, 4))


def test_frames_are_normalised_by_channel() -> None:
    frames = torch.zeros(2, 5, 3, 4, 6, 6, dtype=torch.uint8)
    frames[1, 3] = torch.tensor([210, 40, 160], dtype=torch.uint8).view(3, 1, 1, 1)
    features = snippet_encoder(Mean(), None, channels=3)(frames)
    torch.testing.assert_close(features[1, 3], torch.tensor([2.0, -1.0, 1.0]))
    torch.testing.assert_close(features[0, 0], torch.tensor([-110 / 50, -100 / 60, -90 / 70]))


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"frozen_stages=0: Mean has 0 stages .* null freezes none"):
        snippet_encoder(Mean(), 0)
    with pytest.raises(ValueError, match="frozen_stages=5: R2Plus1D has 4 stages"):
        snippet_encoder(tiny(), 5)
    with pytest.raises(ValueError, match=r"makes \(2, 3\) of 2 clips, not \[clips, data\.channels=16\]"):
        snippet_encoder(Mean(), None)(torch.zeros(1, 2, 3, 4, 6, 6, dtype=torch.uint8))
