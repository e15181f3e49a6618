"""Choose ranks during a run: a stage's own cut, and the steps that lead to it."""

from lorank.ranks import Spectra, budget, rule, threshold
from lorank.training.recipe import Cut, Stage


def cut_ranks(cut: Cut, spectra: Spectra) -> dict[str, int]:
    """Ranks of a stage's cut, never above what the layers have.

    Raises:
        LorankError: if the rule is unknown or the budget cannot be reached.
    """
    if cut.rule is not None:
        chosen = rule(cut.rule, multiple=cut.multiple)(spectra)
    else:
        chosen = budget(spectra, params=cut.params, macs=cut.macs, multiple=cut.multiple)
    return kept(chosen, spectra)


def step_ranks(stage: Stage, spectra: Spectra, epoch: int) -> dict[str, int]:
    """Ranks after an epoch of a stage that cuts as it goes: dead values, and a step further.

    Args:
        stage: a stage with a truncation.
        spectra: the model as it is.
        epoch: epochs done, counted from 1.
    """
    plan = stage.truncation
    assert plan is not None
    ranks = kept(threshold(spectra, relative=plan.dead), spectra)
    if plan.toward and stage.cut is not None and stage.cut.rule is None:
        share = step_share(stage, epoch)
        cut = stage.cut
        params = _eased(cut.params, spectra.params, share)
        macs = _eased(cut.macs, spectra.macs, share)
        step = budget(spectra, params=params, macs=macs, multiple=cut.multiple)
        step = kept(step, spectra)
        ranks = {name: min(ranks[name], step[name]) for name in ranks}
    return ranks


def step_share(stage: Stage, epoch: int) -> float:
    """How far the cuts have come after an epoch, from 0 to 1: fast first, then slower.

    ``1 − (1 − t)³``, the cubic schedule of gradual pruning (Zhu and Gupta, 2017): early on, what
    is cut matters least and there is most time to recover.
    """
    assert stage.truncation is not None
    done = min(1.0, epoch / max(1.0, stage.truncation.until * stage.epochs))
    return 1 - (1 - done) ** 3


def _eased(target: float | int | None, dense: int | None, share: float) -> float | None:
    """Budget on the way from the dense cost to the target, as a share of the dense cost."""
    if target is None or dense is None:
        return target
    end = target if isinstance(target, float) else target / dense
    return float(1 - share * (1 - end))


def kept(ranks: dict[str, int], spectra: Spectra) -> dict[str, int]:
    """Ranks no larger than the factors are now."""
    return {name: min(rank, spectra[name].values.shape[-1]) for name, rank in ranks.items()}
