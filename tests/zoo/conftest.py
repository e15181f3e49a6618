"""Real data for the tests that can use it: from $LORANK_DATA, or beside the repository."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lorank.errors import LorankError

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture
def shared() -> Callable[[str], Path]:
    """A function from a name inside the data folder to its path; the test skips if it is absent."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("LORANK_DATA", BESIDE)) / name
        if not path.exists():
            pytest.skip(f"no {path}: set LORANK_DATA to the folder of the shared data")
        return path

    return find


@pytest.fixture
def told() -> Callable[..., str]:
    """A function that runs a call which must fail, and gives the one sentence that it says."""

    def message(call: Callable, *args, **kwargs) -> str:
        with pytest.raises(LorankError) as caught:
            call(*args, **kwargs)
        text = str(caught.value)
        assert "\n" not in text
        return text

    return message
