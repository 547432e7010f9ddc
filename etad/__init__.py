"""Temporal action detection by ETAD. `etad.detect` finds the actions of one video; the rest is in the modules."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "detect":  # imported when asked for: torch takes seconds
        from etad.detecting import detect

        return detect
    raise AttributeError(f"module 'etad' has no attribute {name!r}")
