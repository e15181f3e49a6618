"""Chains of NUTS in blocks of draws: side by side in threads, saved after each block."""

from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from numpyro.infer import NUTS
from numpyro.infer.hmc import HMCState
from numpyro.infer.util import initialize_model

from lorank.bayes.resume import load_arrays, save_arrays
from lorank.errors import LorankError

BLOCK = 50
"""Draws between two looks at the outside world: progress, and the file to resume from."""

SITES = ("d", "sigma", "U", "V", "slab")
Arrays = dict[str, NDArray]


@dataclass(frozen=True)
class Plan:
    """How long to run, and what identifies the run in its file.

    Attributes:
        warmup: steps that adapt.
        draws: steps that are kept.
        label: text of everything that the draws depend on.
        resume: file of the state, or ``None``.
        tick: called with the number of steps done by one chain's block.
        stopped: set where one chain failed or the user gave up: the others end after their block.
    """

    warmup: int
    draws: int
    label: str
    resume: str | Path | None
    tick: Callable[[int], None]
    stopped: Event = field(default_factory=Event)

    def path(self, chain: int) -> Path | None:
        """File of one chain's state: ``NAME.chain-0.npz`` for ``NAME.npz``."""
        if self.resume is None:
            return None
        path = Path(self.resume)
        return path.with_name(f"{path.stem}.chain-{chain}.npz")


def run(
    model: Callable[[], None],
    starts: list[dict[str, NDArray]],
    plan: Plan,
    *,
    seed: int,
    accept: float,
    dense: list[tuple[str, ...]],
    depth: int,
    threads: int,
) -> Arrays:
    """Sample all chains.

    Args:
        model: NumPyro model without arguments.
        starts: unconstrained values of one start a chain; sites left out start by NumPyro's rule.
        plan: lengths, file and progress.
        seed: chain c draws from ``fold_in(seed, c)``, so its draws do not depend on the others.
        accept: target acceptance probability.
        dense: blocks of sites with a dense mass matrix.
        depth: greatest depth of a tree.
        threads: chains that run at a time; XLA works outside Python's lock.

    Returns:
        Site → ``(chains, draws, …)``, and ``diverging``, ``num_steps``, ``energy``,
        ``accept_prob``, ``step_size``.

    Raises:
        LorankError: if the file to resume from is of another run.
    """
    keys = [jax.random.fold_in(jax.random.PRNGKey(seed), c) for c in range(len(starts))]
    found = initialize_model(keys[0], model)
    kernel = NUTS(
        potential_fn=found.potential_fn,
        target_accept_prob=accept,
        dense_mass=dense,  # pyright: ignore[reportArgumentType]  (its annotation leaves lists out)
        max_tree_depth=depth,
    )
    begun = [{**found.param_info.z, **start} for start in starts]
    states = _begin(kernel, found.potential_fn, keys, begun, plan.warmup)
    blocks = _Blocks(kernel, found.postprocess_fn, states[0])
    work = [(chain, state, blocks, plan) for chain, state in enumerate(states)]
    done = [_chain(*each) for each in work] if threads == 1 else _side_by_side(work, threads, plan)
    return {name: np.stack([one[name] for one in done]) for name in done[0]}


def _side_by_side(work: list[tuple[Any, ...]], threads: int, plan: Plan) -> list[Arrays]:
    with ThreadPoolExecutor(threads) as pool:
        chains = [pool.submit(_in_double, _chain, *each) for each in work]
        try:
            for chain in as_completed(chains):
                chain.result()  # the first fault ends all
        finally:  # the pool waits for its threads, and nothing but this ends them
            plan.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return [chain.result() for chain in chains]


def _in_double(call: Callable[..., Arrays], *arguments: Any) -> Arrays:
    with jax.enable_x64(True):  # the switch is a thread's own
        return call(*arguments)


def _begin(
    kernel: NUTS, potential: Callable, keys: list, begun: list[dict], warmup: int
) -> list[HMCState]:
    """First states. NumPyro makes one, step by step and slowly; the others differ by the place."""
    state = kernel.init(keys[0], warmup, begun[0], (), {})
    slope = jax.jit(jax.value_and_grad(potential))
    states = []
    for key, start in zip(keys, begun, strict=True):
        place = {name: jnp.asarray(start[name]) for name in state.z}
        energy, gradient = slope(place)
        adapted = state.adapt_state._replace(rng_key=jax.random.fold_in(key, 1))
        states.append(
            state._replace(
                z=place,
                z_grad=gradient,
                potential_energy=energy,
                rng_key=key,
                adapt_state=adapted,
            )
        )
    return states


class _Blocks:
    """The compiled loop over a block of steps: one program for all chains and lengths."""

    def __init__(self, kernel: NUTS, read: Callable, state: HMCState):
        def seen(state: HMCState) -> dict[str, Any]:
            sites = read(state.z)
            return {name: sites[name] for name in SITES if name in sites} | {
                "diverging": state.diverging,
                "num_steps": state.num_steps,
                "energy": state.energy,
                "accept_prob": state.accept_prob,
                "step_size": state.adapt_state.step_size,
            }

        self.kinds: dict[str, Any] = jax.eval_shape(seen, state)

        def block(state: HMCState, length: Any) -> tuple[HMCState, dict[str, Any]]:
            empty = jax.tree.map(
                lambda leaf: jnp.zeros((BLOCK, *leaf.shape), leaf.dtype), self.kinds
            )

            def step(i: Any, carried: tuple) -> tuple:
                state, kept = carried
                state = _bounded(kernel.sample(state, (), {}))
                kept = jax.tree.map(lambda row, new: row.at[i].set(new), kept, seen(state))
                return state, kept

            return jax.lax.fori_loop(0, length, step, (state, empty))

        self.compiled = jax.jit(block).lower(state, np.int64(0)).compile()

    def __call__(self, state: HMCState, length: int) -> tuple[HMCState, Arrays]:
        state, kept = self.compiled(state, np.int64(length))
        return state, {name: np.asarray(value)[:length] for name, value in kept.items()}


def _bounded(state: HMCState) -> HMCState:
    """Bound the diagonal part of the mass matrix: no step is longer than the prior is wide.

    A column of a free matrix has a nearly fixed norm. Where two components turn into each other,
    its entries go round that circle and have a large variance, but across the circle it stays as
    narrow as ever; a mass matrix of these variances would shrink all steps to a tenth.
    """
    adapted = state.adapt_state
    inverse, root, root_inverse = (
        dict(part)
        for part in (
            adapted.inverse_mass_matrix,
            adapted.mass_matrix_sqrt,
            adapted.mass_matrix_sqrt_inv,
        )
    )
    for sites, variances in inverse.items():
        if variances.ndim == 1:
            inverse[sites] = jnp.minimum(variances, 1.0)
            root[sites] = jnp.maximum(root[sites], 1.0)
            root_inverse[sites] = jnp.minimum(root_inverse[sites], 1.0)
    adapted = adapted._replace(
        inverse_mass_matrix=inverse, mass_matrix_sqrt=root, mass_matrix_sqrt_inv=root_inverse
    )
    return state._replace(adapt_state=adapted)


def _chain(chain: int, state: HMCState, blocks: _Blocks, plan: Plan) -> Arrays:
    total, path = plan.warmup + plan.draws, plan.path(chain)
    done, kept = 0, []
    if path is not None and path.exists():
        done, state, kept = _load(path, state, blocks.kinds, plan)
        plan.tick(done)
    while done < total:
        if plan.stopped.is_set():
            raise CancelledError
        length = min(BLOCK, total - done)
        state, seen = blocks(state, length)
        late = max(plan.warmup - done, 0)  # of a block that ends the warm-up, keep what follows
        kept.append({name: value[late:] for name, value in seen.items()})
        done += length
        plan.tick(length)
        if path is not None:
            kept = [_joined(kept)]
            _save(path, state, done, kept[0], plan)
    return _joined(kept)


def _joined(kept: list[Arrays]) -> Arrays:
    return {name: np.concatenate([block[name] for block in kept]) for name in kept[0]}


def _save(path: Path, state: HMCState, done: int, kept: Arrays, plan: Plan) -> None:
    leaves = jax.tree.leaves(state)
    arrays = {f"state_{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    arrays |= {f"draws_{name}": value for name, value in kept.items()}
    save_arrays(path, {**arrays, "done": np.asarray(done), "label": np.asarray(plan.label)})


def _load(
    path: Path, like: HMCState, kinds: dict[str, Any], plan: Plan
) -> tuple[int, HMCState, list[Arrays]]:
    arrays = load_arrays(path)
    if "label" not in arrays or str(arrays["label"]) != plan.label:
        raise LorankError(
            f"{path.name} is the state of another run (other data, choices or versions); "
            "give another file, or delete it to start anew"
        )
    leaves, tree = jax.tree.flatten(like)
    leaves = [np.asarray(leaf) for leaf in leaves]
    done = _done(arrays, plan)
    expected = {f"state_{i}": (leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)} | {
        f"draws_{name}": ((max(done - plan.warmup, 0), *kind.shape), kind.dtype)
        for name, kind in kinds.items()
    }
    found = {name: (value.shape, value.dtype) for name, value in arrays.items()}
    if done == 0 or {name: found.get(name) for name in expected} != expected:
        raise LorankError(f"{path.name} does not hold a whole state; delete it to start anew")
    state = [jnp.asarray(arrays[f"state_{i}"]) for i in range(len(leaves))]
    kept = {name: arrays[f"draws_{name}"] for name in kinds}
    return done, jax.tree.unflatten(tree, state), [kept]


def _done(arrays: Arrays, plan: Plan) -> int:
    """Steps that were done; 0 where the file does not tell."""
    found = arrays.get("done", np.zeros(()))
    whole = found.shape == () and found.dtype.kind in "iu"
    return int(found) if whole and 0 < found <= plan.warmup + plan.draws else 0
