"""Gradient sampling: exact with every snippet, unbiased with weights, small in memory; samplers by counting."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from etad.gradients import UNITS, Picks, SnippetDraw, SnippetEncoder, snippet_count, systematic
from etad.measure import LiveMemory
from etad.model.aggregation import FeatureModule, Recurrent
from etad.model.encoder import R2Plus1D
from etad.randomness import uniform
from etad.registry import SNIPPET_SAMPLERS, lookup
from etad.spec import Entry

SAMPLERS = ("random", "grid", "block", "label-guided", "feature-guided")
B, T, C = 2, 10, 8


def sampler(name: str, **args: Any) -> Callable[[SnippetDraw], Picks]:
    return partial(lookup(SNIPPET_SAMPLERS, Entry(name=name, args=args), given=("draw",)), **args)


# --- counts


@pytest.mark.parametrize(
    ("tscale", "ratio", "chunk", "half_up", "released"),
    [
        (128, 0.3, 4, 38, 40),  # 38.4; METHOD 9
        (128, 1.0, 4, 128, 128),
        (128, 0.1, 4, 13, 16),
        (100, 0.145, 4, 15, 16),  # 14.5, which a float holds as 14.499..
        (10, 0.25, 4, 3, 4),
        (128, 0.0, 4, 0, 0),
        (128, 0.001, 4, 1, 4),  # 0.128: one at least; 0.032 + 0.99 of a chunk
        (10, 0.95, 4, 10, 10),  # three chunks of 4 are more than there are
    ],
)
def test_a_ratio_stands_for_a_count(tscale: int, ratio: float, chunk: int, half_up: int, released: int) -> None:
    assert snippet_count(tscale, ratio, "half-up", chunk) == half_up
    assert snippet_count(tscale, ratio, "released", chunk) == released


# --- samplers

SEGMENTS = torch.tensor([[[0.2, 0.55], [0.0, 0.0]], [[0.0, 0.1], [0.7, 0.9]]])
PRESENT = torch.tensor([[True, False], [True, True]])


def draw(numbers: Callable[[int], Tensor], count: int = 4, tscale: int = T) -> SnippetDraw:
    features = torch.randn(B, tscale, C, generator=torch.Generator().manual_seed(0))
    return SnippetDraw(count, numbers, features, SEGMENTS, PRESENT)


def keyed(seed: int) -> Callable[[int], Tensor]:
    return lambda count: uniform(seed, torch.arange(B), count=count)


@pytest.mark.parametrize("count", [1, 4, 9, 10])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_holds_so_many_different_snippets(name: str, count: int) -> None:
    for seed in range(20):
        picks = sampler(name)(draw(keyed(seed), count))
        assert picks.index.shape == picks.probability.shape == (B, count)
        for row in picks.index.tolist():
            assert len(set(row)) == count
            assert set(row) <= set(range(T))
        assert ((picks.probability > 0) & (picks.probability <= 1)).all()
        if count == T:
            assert torch.equal(picks.probability, torch.ones(B, T))


def counted(name: str, starts: int, count: int) -> tuple[Tensor, Tensor]:
    """How often each snippet is held over all equally likely starts, and the probability that it is said to have."""
    held, said = torch.zeros(B, T), torch.full((B, T), math.nan)
    for s in range(starts):
        picks = sampler(name)(draw(lambda n, s=s: torch.full((B, n), (s + 0.5) / starts), count))
        held.scatter_add_(1, picks.index, torch.ones_like(picks.probability))
        said.scatter_(1, picks.index, picks.probability)
    return held / starts, said


@pytest.mark.parametrize("count", [1, 3, 4, 7])
@pytest.mark.parametrize("name", ["grid", "block", "feature-guided"])
def test_probabilities_are_those_of_all_starts(name: str, count: int) -> None:
    starts = {"grid": 1000, "block": T - count + 1, "feature-guided": T}[name]
    held, said = counted(name, starts, count)
    assert (held > 0).all()
    torch.testing.assert_close(held, said, rtol=0.0, atol=2e-3 if name == "grid" else 1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_probabilities_are_frequencies(name: str) -> None:
    draws, count = 4000, 4
    held, said = torch.zeros(B, T), torch.full((B, T), math.nan)
    for seed in range(draws):
        picks = sampler(name)(draw(keyed(seed), count))
        held.scatter_add_(1, picks.index, torch.ones_like(picks.probability))
        said.scatter_(1, picks.index, picks.probability)
    error = (said * (1 - said) / draws).sqrt() + 1e-9
    assert ((held / draws - said).abs() < 4.5 * error).all()
    torch.testing.assert_close(said.sum(1), torch.full((B,), float(count)), rtol=0, atol=1e-4)


def test_the_grid_is_even_and_its_phase_random() -> None:
    gaps, firsts = set(), set()
    for seed in range(50):
        index = sampler("grid")(draw(keyed(seed), 4)).index
        gaps |= set(index.diff(dim=1).flatten().tolist())
        firsts |= set(index[:, 0].tolist())
    assert gaps == {2, 3}  # 10 / 4
    assert firsts == {0, 1, 2}


def test_a_block_is_contiguous() -> None:
    for seed in range(20):
        assert (sampler("block")(draw(keyed(seed), 4)).index.diff(dim=1) == 1).all()


def test_label_guidance_gives_half_to_the_boundaries() -> None:
    """Video 0 has boundaries at 2.0 and 5.5 snippets: centres 0.5 .. 3.5 and 3.5 .. 7.5 lie within two."""
    near = torch.tensor([True] * 8 + [False] * 2)
    picks = sampler("label-guided")(draw(keyed(0), 2))
    for index, probability in zip(picks.index[0], picks.probability[0], strict=True):
        assert probability == pytest.approx(1 / 8 if near[index] else 1 / 2, abs=1e-6)
    # 6 of 10: the two far ones cannot give three, so both are taken and the near ones give four
    picks = sampler("label-guided")(draw(keyed(0), 6))
    assert {8, 9} <= set(picks.index[0].tolist())
    one = sampler("label-guided", reach=0.5)(draw(keyed(3), 4))
    assert not torch.equal(one.probability, sampler("label-guided")(draw(keyed(3), 4)).probability)


def test_feature_guidance_goes_to_the_farthest() -> None:
    """By hand: from each pick on, the snippet whose nearest pick is farthest."""
    made = draw(keyed(5), 5)
    for x, row in zip(made.features, sampler("feature-guided")(made).index.tolist(), strict=True):
        for n in range(1, 5):
            nearest = [min(float((x[t] - x[p]).norm()) for p in row[:n]) for t in range(T)]
            assert nearest[row[n]] == pytest.approx(max(nearest))


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=12), st.integers(0, 1000), st.data())
def test_systematic_sampling_takes_exactly_so_many(weights: list[float], seed: int, data: st.DataObject) -> None:
    n, size = data.draw(st.integers(1, len(weights))), len(weights)
    p = torch.tensor(weights, dtype=torch.float64)
    low, high = 0.0, 1e9
    for _ in range(200):  # scaled and capped so that the probabilities sum to n
        middle = (low + high) / 2
        low, high = (middle, high) if (p * middle).clamp_max(1).sum() < n else (low, middle)
    p = (p * high).clamp_max(1)
    picks = systematic(p.unsqueeze(0), n, uniform(seed, 0, count=size + 1).unsqueeze(0))
    assert len(set(picks.index[0].tolist())) == n
    torch.testing.assert_close(picks.probability[0].double(), p[picks.index[0]], rtol=0.0, atol=2 * size / UNITS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_depends_on_its_video_alone(name: str) -> None:
    """Not on the videos beside it."""
    both = draw(keyed(7))
    for v in range(B):
        alone = SnippetDraw(
            4,
            lambda count, v=v: uniform(7, torch.tensor([v]), count=count),
            both.features[v : v + 1],
            SEGMENTS[v : v + 1],
            PRESENT[v : v + 1],
        )
        assert torch.equal(sampler(name)(alone).index[0], sampler(name)(both).index[v])


# --- gradients


class Head(nn.Module):
    """A detector's feature module and a loss that is no sum over snippets."""

    def __init__(self) -> None:
        super().__init__()
        self.features = FeatureModule(channels=C, width=8, groups=2, norm_groups=2, aggregator=Recurrent(8, nn.LSTM))

    def forward(self, features: Tensor) -> Tensor:
        return self.features(features.transpose(1, 2)).square().mean() + features.std()


def parts(dtype: torch.dtype, chunk: int = 3, frozen: int | None = 0) -> tuple[SnippetEncoder, Head, Tensor]:
    torch.manual_seed(0)
    encoder = SnippetEncoder(
        network=R2Plus1D(layers=(1, 1, 1, 1), planes=(4, 4, 6, C), variant="tsp"),
        channels=C,
        frozen_stages=frozen,
        mean=(110.0, 100.0, 90.0),
        std=(50.0, 60.0, 70.0),
        chunk=chunk,
    )
    for m in encoder.modules():
        if isinstance(m, nn.BatchNorm3d):  # statistics that matter
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2.0)
    frames = torch.randint(0, 256, (B, T, 3, 4, 16, 16), dtype=torch.uint8)
    return encoder.to(dtype), Head().to(dtype), frames


def by_hand(encoder: SnippetEncoder, head: Head, frames: Tensor) -> list[Tensor]:
    """Full backpropagation: every clip through the network at once, the loss, and back."""
    clips = (frames.flatten(0, 1).to(encoder.mean.dtype) - encoder.mean) / encoder.std
    loss = head(encoder.network(clips).view(B, T, C))
    return list(torch.autograd.grad(loss, encoder.trained()))


def feature_gradient(encoder: SnippetEncoder, head: Head, frames: Tensor) -> Tensor:
    features = encoder(frames).requires_grad_()
    return torch.autograd.grad(head(features), features)[0]


def sampled(encoder: SnippetEncoder, head: Head, frames: Tensor, picks: Picks, **options: Any) -> list[Tensor]:
    for p in encoder.parameters():
        p.grad = None
    encoder.backward(frames, feature_gradient(encoder, head, frames), picks, **{"weighted": False, **options})
    return [p.grad for p in encoder.trained()]


def every(order: Tensor | None = None) -> Picks:
    index = torch.arange(T).expand(B, T) if order is None else order
    return Picks(index, torch.ones(B, T))


def assert_close(got: list[Tensor], wanted: list[Tensor], relative: float) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert float((a - b).abs().max()) <= relative * float(b.abs().max())


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("chunk", [1, 3, T, 50])
@pytest.mark.parametrize("frozen", [None, 0, 2])
def test_every_snippet_sampled_is_full_backpropagation(
    dtype: torch.dtype, relative: float, chunk: int, frozen: int | None
) -> None:
    made = parts(dtype, chunk, frozen)
    wanted = by_hand(*made)
    assert all(float(g.abs().max()) > 0 for g in wanted)
    assert_close(sampled(*made, every()), wanted, relative)
    shuffled = torch.stack([torch.randperm(T) for _ in range(B)])
    assert_close(sampled(*made, every(shuffled), weighted=True), wanted, relative)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_chunk_changes_no_result(name: str) -> None:
    results = []
    for chunk in (1, 2, 3, 4, 50):
        encoder, head, frames = parts(torch.float64, chunk)
        made = SnippetDraw(4, keyed(3), encoder(frames), SEGMENTS, PRESENT)
        results.append(sampled(encoder, head, frames, sampler(name)(made), weighted=True))
    for other in results[1:]:
        assert_close(other, results[0], 1e-12)


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def shares() -> tuple[Tensor, Tensor, Tensor]:
    """Each snippet's own gradient [B, T, parameters], the full one, and the features."""
    encoder, head, frames = parts(torch.float64)
    full = flat(by_hand(encoder, head, frames))
    gradient = feature_gradient(encoder, head, frames)
    own = torch.zeros(B, T, len(full), dtype=torch.float64)
    for v in range(B):
        for t in range(T):
            features = encoder.encode(frames[v : v + 1, t : t + 1])[0, 0]
            own[v, t] = flat(list(torch.autograd.grad(features @ gradient[v, t], encoder.trained())))
    return own, full, encoder(frames)


def estimates(name: str, own: Tensor, features: Tensor, weighted: bool, draws: int) -> Tensor:
    """The sampled gradient of each draw: the picked snippets' own gradients, added up."""
    out = torch.empty(draws, own.shape[-1], dtype=torch.float64)
    for seed in range(draws):
        picks = sampler(name)(SnippetDraw(3, keyed(seed), features, SEGMENTS, PRESENT))
        weight = 1 / picks.probability.double() if weighted else torch.ones(B, 3, dtype=torch.float64)
        out[seed] = (own.gather(1, picks.index.unsqueeze(-1).expand(-1, -1, own.shape[-1])) * weight.unsqueeze(-1)).sum(
            (0, 1)
        )
    return out


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_weighted_estimator_is_unbiased(name: str) -> None:
    own, full, features = shares()
    torch.testing.assert_close(own.sum((0, 1)), full, rtol=1e-9, atol=1e-12)
    # what `backward` adds up is what the estimate below says
    encoder, head, frames = parts(torch.float64)
    picks = sampler(name)(SnippetDraw(3, keyed(0), features, SEGMENTS, PRESENT))
    one = flat(sampled(encoder, head, frames, picks, weighted=True))
    torch.testing.assert_close(one, estimates(name, own, features, True, 1)[0], rtol=1e-9, atol=1e-12)
    # along directions drawn at random, the mean over draws is the full gradient within its standard error
    directions = torch.randn(len(full), 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    along = estimates(name, own, features, True, 3000) @ directions
    z = (along.mean(0) - full @ directions) / (along.std(0) / len(along) ** 0.5)
    assert float(z.abs().max()) < 4.5
    assert float(z.square().mean()) < 3


def test_control_without_weights_uneven_probabilities_are_biased() -> None:
    """Even after scaling: the test above can fail."""
    own, full, features = shares()
    directions = torch.randn(len(full), 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for name in ("block", "label-guided", "feature-guided"):
        along = estimates(name, own, features, False, 1000) @ directions * T / 3
        z = (along.mean(0) - full @ directions) / (along.std(0) / len(along) ** 0.5)
        assert float(z.abs().max()) > 8, name


def test_mixed_precision_is_close_and_leaves_float32_gradients() -> None:
    encoder, head, frames = parts(torch.float32)
    exact = flat(sampled(encoder, head, frames, every()))
    types: set[torch.dtype] = set()
    encoder.network.layer4[0].conv1[0][0].register_forward_hook(lambda _, __, out: types.add(out.dtype))
    lower = sampled(encoder, head, frames, every(), dtype=torch.bfloat16)
    assert torch.bfloat16 in types
    assert {g.dtype for g in lower} == {torch.float32}
    assert 0.97 < torch.cosine_similarity(flat(lower), exact, dim=0) < 1 - 1e-7


# --- memory


def peak(chunk: int, tscale: int, count: int) -> int:
    """Bytes at most above what was there before: all features without gradient, then `count` snippets back."""
    with FakeTensorMode(), LiveMemory() as memory:
        encoder = SnippetEncoder(
            network=R2Plus1D(layers=(1, 1, 1, 1), planes=(8, 8, 8, C), variant="tsp"),
            channels=C,
            frozen_stages=0,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            chunk=chunk,
        )
        frames = torch.zeros(1, tscale, 3, 8, 32, 32, dtype=torch.uint8)
        memory.peak = before = memory.now
        features = encoder(frames)
        encoder.backward(frames, features, Picks(torch.arange(count).unsqueeze(0), torch.ones(1, count)), weighted=True)
        return memory.peak - before


def test_memory_grows_with_the_chunk_and_not_with_the_video() -> None:
    few, more = peak(2, 6, 4), peak(2, 12, 7)
    own = 6 * (2 * C * 4 + 8) + 3 * (C * 4 + 8)  # features and their gradients, indices and weights of 6 and 3 more
    assert more - few <= own
    assert few > 100 * own
    assert peak(2, 12, 12) - more <= 2 * own  # nor with the ratio
    one, two, four = (peak(chunk, 8, 8) for chunk in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)
    assert four > 3 * one
