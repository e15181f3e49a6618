"""Commands run on another device, and answer as they do on the CPU."""

import pytest

from cli.conftest import SMALL, run

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
