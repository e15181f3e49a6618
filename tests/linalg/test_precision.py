"""What products are computed in while they must be exact. No GPU is needed to set what it does."""

import contextlib
import subprocess
import sys
import threading

import pytest
import torch

from lorank.linalg.precision import TF32, exact

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def switches():
    products = torch.backends.cuda.matmul
    return torch.backends.cudnn.enabled, getattr(products, "fp32_precision", None)


@pytest.fixture
def fast():
    """A user who trades precision for speed."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_tf32_and_autocast_are_off_on_a_gpu_and_back_after_it(ends, fast):
    asked = switches()
    with contextlib.suppress(ValueError), exact(CUDA), exact(CUDA):
        assert switches() == (False, "ieee")
        assert not torch.is_autocast_enabled("cuda")
        if ends == "badly":
            raise ValueError
    assert switches() == asked
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.is_autocast_enabled("cuda")


def test_the_cpu_is_not_asked_for_what_a_gpu_does(fast):
    asked = switches()
    with torch.autocast("cpu", torch.bfloat16), exact(CPU):
        assert switches() == asked
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.float32
        assert torch.is_autocast_enabled("cuda")


FRESH = """
import torch
from lorank.linalg.precision import exact
with exact(torch.device("cuda")):
    pass
torch.backends.fp32_precision = "ieee"
assert torch.backends.cudnn.conv.fp32_precision == "ieee"
"""


def test_nothing_is_pinned_that_was_left_to_the_general_setting():
    """A switch that is set stands by itself from then on: those that are not on are not touched.

    In a process of its own, where nobody has set any.
    """
    if not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("this torch has no general precision")
    done = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_last_thread_puts_back_what_the_first_one_found(fast):
    asked, inside, leave = switches(), threading.Event(), threading.Event()

    def other():
        with exact(CUDA):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=other)
    with exact(CUDA):
        thread.start()
        assert inside.wait(60)
    assert switches() == (False, "ieee")  # the other one is still inside
    leave.set()
    thread.join()
    assert switches() == asked
    assert TF32.inside == 0


@pytest.mark.slow
def test_it_compiles_as_one_graph():
    def product(x):
        with exact(CUDA):
            return x @ x

    x = torch.eye(3)
    assert torch.equal(torch.compile(product, fullgraph=True, backend="eager")(x), x)
