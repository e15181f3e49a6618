"""SVD training inside somebody else's loop: what the adapters for other trainers share."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lorank.compression import measure
from lorank.compression.latency import device_of
from lorank.compression.prune import prune_in_place
from lorank.errors import LorankError
from lorank.training.objective import ramped
from lorank.training.penalty import penalty_terms
from lorank.training.recipe import Cut, Stage
from lorank.training.truncation import cut_ranks


class SVDSchedule:
    """Adds the penalties' gradients to each step, and cuts once on the way.

    The penalties depend on the weights alone. So their gradient is added after the task's, just
    before the optimizer steps: once a step however many batches are accumulated, the same on
    every process, and never through a mixed-precision scaler.

    Args:
        orthogonality: λ_o.
        sparsity: λ_s, up to the cut; it is zero afterwards.
        kind: ``"l1"``, ``"hoyer"`` or ``"hoyer_square"``.
        ramp: share of the training over which λ_s rises from zero.
        macs: MACs to keep at the cut, for the whole network; needs ``example``.
        params: parameters to keep, instead.
        rule: a rank rule such as ``"energy:0.99"``, instead.
        cut_at: share of the training at which the cut is made.
        example: what the model is called with, for ``macs``.

    Raises:
        LorankError: if more than one of ``macs``, ``params`` and ``rule`` is given.

    Example:
        >>> import lorank
        >>> model = lorank.decompose(nn.Linear(4, 4))
        >>> sorted(SVDSchedule().before_step(model, 0.0))
        ['orthogonality']
    """

    def __init__(
        self,
        *,
        orthogonality: float = 1.0,
        sparsity: float = 0.0,
        kind: str = "hoyer",
        ramp: float = 0.2,
        macs: float | int | None = None,
        params: float | int | None = None,
        rule: str | None = None,
        cut_at: float = 0.5,
        example: Any = None,
    ):
        try:
            wanted = any(target is not None for target in (macs, params, rule))
            self.cut = Cut(macs=macs, params=params, rule=rule) if wanted else None
            self.stage = Stage.model_validate(
                {
                    "name": "callback",
                    "epochs": 1,
                    "orthogonality": orthogonality,
                    "sparsity": sparsity,
                    "kind": kind,
                    "ramp": ramp,
                }
            )
        except ValueError as error:
            raise LorankError(f"SVD training in a callback: {error}") from None
        self.cut_at = cut_at
        self.example = example
        self.is_cut = False

    def before_step(self, model: nn.Module, progress: float) -> dict[str, Tensor]:
        """Add the penalties' gradients to the parameters'; returns the penalties by name.

        They are 0-dim tensors without history where the model is: reading them in every step
        would make a GPU wait.

        Args:
            model: a network with layers in SVD form, its gradients of the task computed.
            progress: share of the training that is done.
        """
        weights = {"orthogonality": self.stage.orthogonality, "sparsity": 0.0}
        if not self.is_cut:
            weights["sparsity"] = ramped(self.stage, progress)
        wanted = self.stage.orthogonality > 0, weights["sparsity"] > 0
        with torch.enable_grad():
            terms = penalty_terms(model, kind=self.stage.kind, want=wanted)
            total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        if total.requires_grad:
            total.backward()
        found = {name: value.detach() for name, value in terms.items()}
        return {name: found[name] for name, want in zip(found, wanted, strict=True) if want}

    def after_epoch(
        self,
        model: nn.Module,
        progress: float,
        optimizers: Iterable[torch.optim.Optimizer],
        processes: int = 1,
    ) -> dict[str, int]:
        """Cut the model in place when its time has come; returns the ranks it has then.

        Args:
            model: a network in SVD form.
            progress: share of the training that is done.
            optimizers: they forget what they know of the factors that are cut.
            processes: number of processes that train together.

        Raises:
            LorankError: if several processes train together: their buckets have fixed shapes.
        """
        if self.cut is None or self.is_cut or progress < self.cut_at:
            return {}
        if processes > 1:
            raise LorankError(
                f"a cut inside another trainer needs one process, found {processes}: "
                "cut with lorank.prune between two runs"
            )
        device = device_of(model)  # the trainer has chosen it, and knows nothing of the example
        example = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, self.example)
        ranks = cut_ranks(self.cut, measure(model, example))
        prune_in_place(model, ranks, optimizers)
        self.is_cut = True
        return ranks
