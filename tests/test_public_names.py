"""What ``import lorank`` gives, and what it costs."""

import inspect
import json
import subprocess
import sys

import pytest

import lorank

NAMES = [
    "calibrate",
    "Calibration",
    "measure",
    "sensitivity",
    "Spectra",
    "Spectrum",
    "ranks",
    "decompose",
    "reconstruct",
    "SVD",
    "penalty",
    "penalty_terms",
    "penalties",
    "prune",
    "clip",
    "fold",
    "recalibrate",
    "cost",
    "Cost",
    "save",
    "load",
    "nn",
    "linalg",
    "LorankError",
    "MissingExtraError",
]

HEAVY = {
    "PIL",
    "accelerate",
    "jax",
    "lightning",
    "matplotlib",
    "nibabel",
    "numpyro",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pydicom",
    "rich",
    "scipy",
    "sklearn",
    "tensorboard",
    "timm",
    "torchvision",
    "transformers",
    "typer",
}

IMPORT = """
import json, sys

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):
        raise RuntimeError(f"import lorank used the network: {event}")

sys.addaudithook(watch)
import lorank
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_the_names_are_these():
    assert lorank.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_name_says_what_it_is(name):
    assert inspect.getdoc(getattr(lorank, name))


def test_import_is_light_and_takes_no_network():
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert HEAVY.isdisjoint(json.loads(done.stdout))
