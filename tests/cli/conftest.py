"""The command line in this process: what it prints, what it says, and its exit code."""

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lorank.cli import main

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

SMALL = ("resnet8", "--option", "width=8", "--data", "digits", "--no-plot")
"""A network and data that train in a fraction of a second an epoch."""


class Ran(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


def run(*arguments: Any) -> Ran:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Ran(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def outcome() -> Callable[..., Ran]:
    """Run a command, however it ends."""
    return run


@pytest.fixture(scope="session")
def lorank() -> Callable[..., Ran]:
    """Run a command that must succeed."""

    def succeed(*arguments: Any) -> Ran:
        done = run(*arguments)
        assert done.code == 0, done.err
        return done

    return succeed


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """Run a command that must be refused in one sentence, and give the sentence."""

    def sentence(*arguments: Any) -> str:
        done = run(*arguments)
        assert done.code == 2 and done.out == ""
        assert [line.startswith("error: ") for line in done.err.splitlines()].count(True) == 1
        return done.err.splitlines()[-1].removeprefix("error: ")

    return sentence


class Run(NamedTuple):
    """A run that has ended: its folder, what was typed, and what it printed."""

    folder: Path
    typed: tuple[str, ...]
    ran: Ran


@pytest.fixture(scope="session")
def ended(tmp_path_factory, lorank) -> Run:
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("runs") / "digits"
    typed = ("train", *SMALL, "--dense-epochs", "6", "--epochs", "6", "--macs", "0.5")
    return Run(folder, typed, lorank(*typed, "--out", folder))
