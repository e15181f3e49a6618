"""SVD training under the Transformers ``Trainer``: a thin adapter; extra ``transformers``."""

from typing import Any

from torch import Tensor

from lorank.errors import LorankError, extra
from lorank.training.schedule import SVDSchedule

transformers: Any = extra("transformers", "transformers")


class LorankCallback(transformers.TrainerCallback):
    """Regularise and cut a model that has layers in SVD form while a ``Trainer`` trains it.

    Decompose the model before, fold it afterwards. The arguments are those of
    :class:`lorank.training.schedule.SVDSchedule`. With fp16 keep gradient clipping on: it is what
    unscales the gradients before the penalties' are added.

    Example::

        Trainer(model, args, callbacks=[LorankCallback(sparsity=0.01, rule="energy:0.99")])
    """

    def __init__(self, **options: Any):
        self.schedule = SVDSchedule(**options)
        self.penalties: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse the one setting in which scaled gradients would be mixed with unscaled ones."""
        del state, control, kwargs
        if args.fp16 and not args.max_grad_norm:
            raise LorankError(
                "fp16 needs gradient clipping here, found max_grad_norm=0: set it, or use bf16"
            )

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Add the penalties' gradients: the task's are complete here."""
        del args, control, kwargs
        done = state.global_step / max(1, state.max_steps)
        self.penalties = self.schedule.before_step(model, done)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put the penalties beside the loss."""
        del args, state, control, kwargs
        if logs is not None:
            logs.update({f"lorank/{name}": float(value) for name, value in self.penalties.items()})

    def on_epoch_end(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Cut at the end of the epoch in which the time has come."""
        del control, kwargs
        done = state.global_step / max(1, state.max_steps)
        inner = getattr(optimizer, "optimizer", optimizer)
        self.schedule.after_epoch(model, done, [inner], args.world_size)
