"""Commands run on another device, and answer as they do on the CPU."""

import numpy as np
import pytest
import torch

import lorank
from cli.conftest import SMALL, run
from lorank.compression import latency
from lorank.zoo import load_model

OPTIONS = {"width": 8, "in_channels": 1}

WAYS = {
    "by weights": ["--recalibrate", "4", "--augment"],
    "by what layers read": ["--calibrate", "digits", "--samples", "200"],
    "by trials": ["--calibrate", "digits", "--samples", "100", "--sensitivity", "10"],
}
FEW = [*SMALL[:5], "--limit", "50"]


def answered(*words):
    done = run(*words, "--json")
    assert done.code == 0, done.err
    return done.json


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_network_is_compressed_there_as_on_the_cpu(way, there, tmp_path):
    def answer(device):
        file = tmp_path / f"{device[:3]}.safetensors"
        return answered("compress", *FEW, "--macs", "0.5", *way, "--device", device, "-o", file)

    wanted, found = answer("cpu"), answer(str(there))
    assert [row["rank"] for row in found["layers"]] == [row["rank"] for row in wanted["layers"]]
    assert found["after"] == pytest.approx(wanted["after"])
    assert found["before"] == pytest.approx(wanted["before"])


def test_a_file_in_svd_form_is_cut_by_what_its_layers_read_there(there, tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "svd.safetensors"
    net = load_model("resnet8", **OPTIONS)
    lorank.save(lorank.decompose(net), file, info={"model": "resnet8", **OPTIONS})

    def answer(device):
        words = ["--macs", "0.5", "--calibrate", "digits", "--samples", "100", "--device", device]
        return answered("compress", file, *words, "-o", tmp_path / f"{device[:3]}.safetensors")

    wanted, found = answer("cpu"), answer(str(there))
    assert [row["rank"] for row in found["layers"]] == [row["rank"] for row in wanted["layers"]]


FACTORY = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
"""


def test_inputs_of_a_file_say_what_a_network_costs(there, tmp_path, monkeypatch):
    (tmp_path / "factory_there.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    inputs = tmp_path / "x.npy"
    np.save(inputs, np.random.default_rng(0).normal(size=(64, 12)).astype("float32"))
    words = ["--macs", "0.7", "--calibrate", inputs, "--device", there]
    found = answered("compress", "factory_there:net", *words, "-o", tmp_path / "s.safetensors")
    assert found["after"]["macs"] <= 0.7 * found["before"]["macs"]


def test_a_bench_waits_for_the_device(there, monkeypatch):
    waited = []
    monkeypatch.setattr(latency, "wait", lambda device: waited.append(device))
    answered("bench", *SMALL[:3], "--input", "1,8,8", "--repeats", "2", "--device", there)
    assert waited
    assert set(waited) == {there}
