"""Where the tests find real data and reference arrays; both are optional."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
settings.register_profile("suite", deadline=None)  # a busy machine is not a failure
settings.load_profile("suite")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data: ETAD_SHARED, by default beside the checkout."""
    path = Path(os.environ.get("ETAD_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        pytest.skip(f"no real data at {path} (ETAD_SHARED)")
    return path


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder with reference arrays of the released code: ETAD_PARITY, by default inside the real data."""
    given = os.environ.get("ETAD_PARITY")
    path = Path(given) if given else Path(os.environ.get("ETAD_SHARED", ROOT.parent / "shared")) / "parity"
    if not path.is_dir():
        pytest.skip(f"no reference arrays at {path} (ETAD_PARITY)")
    return path
