"""Random crops and mirror images of whole batches."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from lorank.errors import LorankError


@dataclass(frozen=True)
class Augment:
    """Pad each image, crop it back at a random place, and mirror half of them.

    All randomness comes from the generator of the call, so one seed gives one sequence of
    batches. It draws on the generator's own device; the batch may be on another.

    Args:
        pad: pixels added on each side before the crop; an image moves by at most that much.
        flip: whether to mirror left and right with probability one half.
        fill: value of an added pixel, one a channel; a black pixel after normalisation.

    Raises:
        LorankError: if ``pad`` is negative or, in a call, ``fill`` does not match the channels.

    Example:
        >>> augment = Augment(pad=4, flip=True, fill=(0.0, 0.0, 0.0))
        >>> augment(torch.ones(8, 3, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 32, 32])
    """

    pad: int
    flip: bool
    fill: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check ``pad``."""
        if self.pad < 0:
            raise LorankError(f"pad must be at least 0, but got {self.pad}")

    def __call__(self, batch: Tensor, generator: Generator) -> Tensor:
        """Give a changed copy of ``batch`` (N, C, H, W)."""
        n, channels, height, width = batch.shape
        if len(self.fill) != channels:
            raise LorankError(
                f"fill must have one value a channel ({channels}), but has {len(self.fill)}"
            )
        rows, columns = self._places(n, height, width, generator)
        # One flat gather: six times faster than indexing with four broadcast tensors.
        flat = rows.unsqueeze(2) * (width + 2 * self.pad) + columns.unsqueeze(1)
        flat = flat.view(n, 1, -1).to(batch.device).expand(n, channels, height * width)
        return self._padded(batch).flatten(2).gather(2, flat).view(batch.shape)

    def _places(
        self, n: int, height: int, width: int, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        on = generator.device
        top, left = torch.randint(2 * self.pad + 1, (2, n, 1), generator=generator, device=on)
        columns = torch.arange(width, device=on).expand(n, width)
        if self.flip:
            mirror = torch.randint(2, (n, 1), generator=generator, device=on).bool()
            columns = torch.where(mirror, columns.flip(1), columns)
        return torch.arange(height, device=on) + top, columns + left

    def _padded(self, batch: Tensor) -> Tensor:
        n, channels, height, width = batch.shape
        pad = self.pad
        fill = torch.tensor(self.fill, dtype=batch.dtype, device=batch.device)
        size = (n, channels, height + 2 * pad, width + 2 * pad)
        padded = fill.view(1, channels, 1, 1).expand(size).contiguous()
        padded[:, :, pad : pad + height, pad : pad + width] = batch
        return padded
