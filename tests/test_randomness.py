"""Random numbers as a function of their keys."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from etad.randomness import uniform

KEY = st.integers(0, 2**31 - 1)


@given(st.lists(KEY, max_size=4), st.integers(0, 50))
def test_range_shape_and_repetition(keys: list[int], count: int) -> None:
    made = uniform(*keys, count=count)
    assert made.shape == (count,)
    assert made.dtype == torch.float32
    assert torch.equal(made, uniform(*keys, count=count))
    if count:
        assert made.min() >= 0
        assert made.max() < 1


@given(KEY, st.lists(KEY, min_size=1, max_size=5), st.lists(KEY, min_size=1, max_size=3))
def test_batch_is_its_single_rows(seed: int, rows: list[int], kinds: list[int]) -> None:
    made = uniform(seed, torch.tensor(kinds).view(-1, 1), torch.tensor(rows), count=7)
    assert made.shape == (len(kinds), len(rows), 7)
    for k, kind in enumerate(kinds):
        for r, row in enumerate(rows):
            assert torch.equal(made[k, r], uniform(seed, kind, row, count=7))


def test_matches_splitmix64_in_plain_integers() -> None:
    """Wrapping int64 products against Python's unbounded integers."""
    low, golden = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & low
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & low
        return x ^ (x >> 31)

    state = 0
    for key in (5, 2**31 - 1, 17):
        state = mix(((state + golden) & low) ^ key)
    want = [(mix((state + n * golden) & low) >> 40) / 2**24 for n in range(1, 20)]
    assert uniform(5, 2**31 - 1, 17, count=19).tolist() == want


def test_moments_and_histogram() -> None:
    made = uniform(3, count=100_000).double().numpy()
    assert abs(made.mean() - 0.5) < 4 * (1 / 12 / 1e5) ** 0.5
    assert abs(made.var() - 1 / 12) < 4 * (1 / 180 / 1e5) ** 0.5
    counts = np.histogram(made, 50, (0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 49 + 4 * 98**0.5  # chi-square of 49 degrees


def test_neighbouring_keys_and_orders_are_unrelated() -> None:
    n, rows = 10_000, torch.arange(20)
    groups = {
        "seeds": torch.stack([uniform(s, 1, count=n) for s in range(20)]),
        "rows": uniform(1, rows, count=n),
        "first": uniform(rows, 1, 2, count=n),
        "orders": torch.stack([uniform(*keys, count=n) for keys in ((1, 2), (2, 1), (1,), (2,), (1, 2, 0), (0, 1, 2))]),
    }
    for name, drawn in groups.items():
        size = len(drawn)
        both = torch.corrcoef(torch.cat((drawn, drawn.roll(1, 1))).double())  # a row with others, and one step apart
        both.fill_diagonal_(0)
        assert both.abs().max() < 5.2 / n**0.5, (name, size)


def test_a_longer_draw_begins_with_the_shorter() -> None:
    assert torch.equal(uniform(4, 2, count=100)[:10], uniform(4, 2, count=10))
