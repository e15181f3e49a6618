"""What teachers say of a view, asked once and kept in the folder of runs."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cifar10.data import Cifar, seen_images, to, view
from cifar10.published import pretrained
from lorank.atomic import replacing

BATCH = 500


class Teachers:
    """The mean of some networks' logits on all training images, view by view.

    Args:
        names: of published networks, joined by ``+``.
        cifar: the data, on the device where teachers run.
        mix: of the views.
        folder: where the answers are kept.
        bfloat16: whether they answer in it, by autocast.
    """

    def __init__(
        self,
        names: str,
        cifar: Cifar,
        mix: float,
        folder: Path,
        bfloat16: bool = False,
    ):
        self.names = names.split("+")
        self.cifar = cifar
        self.mix = mix
        self.folder = folder
        self.bfloat16 = bfloat16
        self.networks: dict[str, nn.Module] = {}

    def __call__(self, number: int) -> Tensor:
        """Logits (50000, 10) of a view, on the device of the data.

        Of mixed views they are those of the images that are trained on, and NaN elsewhere: which
        partners there are depends on the part.
        """
        answers = [self._answers(name, number) for name in self.names]
        return torch.stack(answers).mean(0).to(self.cifar.padded.device)

    def _answers(self, name: str, number: int) -> Tensor:
        precision = "bfloat16" if self.bfloat16 else "float32"
        path = self.folder / f"{name}-{precision}-{self.mix:g}-{number}{self._part}.npy"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as draft, draft.open("wb") as file:
                np.save(file, self._asked(name, number).half().cpu().numpy())
        return torch.from_numpy(np.load(path)).float()

    @property
    def _part(self) -> str:
        """Names the part that is trained on, where answers depend on it."""
        places = self.cifar.train.places
        if not self.mix or len(places) == len(self.cifar.whole.places):
            return ""
        return "-" + hashlib.sha256(places.cpu().numpy().tobytes()).hexdigest()[:12]

    @torch.inference_mode()
    def _asked(self, name: str, number: int) -> Tensor:
        device = self.cifar.padded.device
        if name not in self.networks:
            network = merged(pretrained(name)).to(device, memory_format=torch.channels_last)
            self.networks[name] = network
        seen = to(view(number, self.mix, self.cifar.train.places), device)
        places = (self.cifar.train if self._part else self.cifar.whole).places
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            said = [
                self.networks[name](seen_images(self.cifar, some, seen))
                for some in places.split(BATCH)
            ]
        answers = torch.cat(said).float()
        found = answers.new_full((len(self.cifar.whole.places), answers.shape[1]), torch.nan)
        found[places] = answers
        return found


def merged(network: nn.Module) -> nn.Module:
    """The network with the blocks' BatchNorms merged into their convolutions; the same function."""
    table = dict(network.named_modules())
    for name, module in table.items():
        norm = name.replace("conv", "bn")
        found = table.get(norm)
        if isinstance(module, nn.Conv2d) and isinstance(found, nn.BatchNorm2d):
            _put(network, name, fuse_conv_bn_eval(module, found))
            _put(network, norm, nn.Identity())
    return network


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)
