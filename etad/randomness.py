"""Random numbers that are a pure function of their keys: no state to save, the same for any worker, process or device."""

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN, _MIX1, _MIX2 = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014) on int64, whose products wrap around."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def uniform(*keys: int | Tensor, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Uniform float32 in [0, 1), [..., count]: one row for each broadcast combination of the integer keys [...]."""
    state = torch.zeros((), dtype=torch.int64, device=device)
    for key in keys:
        key = key.to(device=device, dtype=torch.int64) if isinstance(key, Tensor) else key
        state = _mix((state + _GOLDEN) ^ key)
    ramp = torch.arange(1, count + 1, dtype=torch.int64, device=device) * _GOLDEN
    bits = _mix(state.unsqueeze(-1) + ramp)
    return ((bits >> 40) & ((1 << 24) - 1)).float() * 2.0**-24
