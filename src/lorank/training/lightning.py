"""SVD training under Lightning: a thin adapter. Needs the extra ``lightning``."""

from typing import Any

import torch
from torch import nn

from lorank.errors import extra
from lorank.training.schedule import SVDSchedule

lightning: Any = extra("lightning.pytorch", "lightning")


class LorankCallback(lightning.Callback):
    """Regularise and cut a LightningModule that has layers in SVD form.

    Decompose the network before (``self.net = lorank.decompose(net)``), fold it afterwards. The
    arguments are those of :class:`lorank.training.schedule.SVDSchedule`; the penalties are logged
    as ``lorank/…``.

    Example::

        trainer = L.Trainer(callbacks=[LorankCallback(sparsity=0.01, rule="energy:0.99")])
    """

    def __init__(self, **options: Any):
        self.schedule = SVDSchedule(**options)

    def on_before_optimizer_step(
        self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the penalties' gradients: the task's are unscaled and complete here."""
        del optimizer
        done = trainer.global_step / max(1, trainer.estimated_stepping_batches)
        for name, value in self.schedule.before_step(pl_module, done).items():
            pl_module.log(f"lorank/{name}", value)

    def on_train_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Cut at the end of the epoch in which the time has come."""
        done = (trainer.current_epoch + 1) / max(1, trainer.max_epochs or 1)
        self.schedule.after_epoch(pl_module, done, trainer.optimizers, trainer.world_size)

    def state_dict(self) -> dict[str, Any]:
        """Remember in Lightning's checkpoint whether the cut is made."""
        return {"is_cut": self.schedule.is_cut}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what a checkpoint remembers."""
        self.schedule.is_cut = bool(state_dict["is_cut"])
