"""Compress a Hugging Face folder tensor by tensor: restartable, by one process or several.

Two passes over the weights. The first takes singular values, each kept in the run's folder as it
is had; ranks are then chosen under one budget. The second makes the thin factors, again one file
each, from which the shards are put together. Whatever was finished is found again after a stop.

Each weight is worked on by one thread, several weights at once: the same input gives the same
bytes whatever the number of threads and processes, and small decompositions run faster so.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorank.atomic import replacing
from lorank.compression.cost import limit, nominal, site_macs
from lorank.compression.layout import choose_layout
from lorank.compression.measure import layer_error
from lorank.errors import LorankError
from lorank.files import shards
from lorank.files.huggingface import (
    Folder,
    check_empty,
    copy_others,
    is_compressed,
    open_compressed,
    open_folder,
    own_names,
    write_index,
    write_manifest,
)
from lorank.files.huggingface_plan import Plan, plan, with_weight
from lorank.files.shards import Part
from lorank.linalg import SVD, gram_singular_values, leading
from lorank.nn.factored import Shared
from lorank.nn.surgery import Site, svd_form
from lorank.ranks import Price, Spectra, Spectrum, cost_of
from lorank.ranks.per_layer import lost

WORK = ".lorank-run"
PATIENCE = 0.2
"""Seconds between two looks for what another process is making."""

Choice = Callable[[Spectra], dict[str, int]]


class Settings(NamedTuple):
    """What a run is asked for.

    Attributes:
        choose: spectra to ranks.
        asked: the same in words; another wish is another run.
        layout: as in :func:`lorank.measure`.
        skip: names or patterns of layers to leave dense.
    """

    choose: Choice
    asked: dict[str, Any]
    layout: str = "auto"
    skip: tuple[str, ...] = ()


def compress_folder(
    source: str | Path,
    target: str | Path,
    settings: Settings,
    *,
    process: int = 0,
    processes: int = 1,
    tell: Callable[[str], None] = lambda sentence: None,
) -> dict[str, Any]:
    """Compress a folder that may be larger than memory.

    Processes share nothing but the target folder: each works on its share of the weights and
    waits for the others' files. What was finished before a stop is used again.

    Args:
        source: a dense Hugging Face folder with safetensors weights.
        target: a new or empty folder, or that of the same run, stopped.
        settings: what is wanted.
        process: which process this is, from 0.
        processes: how many there are.
        tell: called with a sentence now and then.

    Returns:
        What the manifest says: what was asked, the cost before and after, a row a layer.

    Raises:
        LorankError: if a folder cannot be used, the input is not the one that the run was begun
            with, or the ranks cannot be chosen.

    Cost: memory of a few times the largest weight for each thread.
    """
    folder, target = open_folder(source), Path(target)
    _check_places(folder.path, target)
    run = _identity(folder, settings)
    if is_compressed(target):
        return _ended(target, run)
    work = _begin(target, run)
    found = plan(folder, settings.skip)
    if found.note and process == 0:
        tell(found.note)
    job = _Job(folder, target, work, found, settings.layout, process, processes, tell)
    try:
        return job.carry_out(run, settings.choose)
    except (_EndedError, FileNotFoundError):
        if not is_compressed(target):
            raise
        return _ended(target, run)  # the main process was done, and has cleared its folder away


def _check_places(source: Path, target: Path) -> None:
    here, there = source.resolve(), target.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise LorankError(
            f"the compressed folder must lie outside the dense one, found {target} and {source}"
        )


def _identity(folder: Folder, settings: Settings) -> dict[str, Any]:
    """What makes a run the same run: the input's bytes, and what was asked."""
    return {
        "input": {file.name: shards.digest(file) for file in folder.files},
        "asked": settings.asked,
        "layout": settings.layout,
        "skip": list(settings.skip),
    }


def _ended(target: Path, run: dict[str, Any]) -> dict[str, Any]:
    """Give the result of a run that has ended, if it is the same."""
    manifest, _ = open_compressed(target)
    info = manifest.get("info") or {}
    _same(target, info.get("run"), run)
    return info


def _same(target: Path, before: Any, run: dict[str, Any]) -> None:
    if before == run:
        return
    differs = [key for key in run if not isinstance(before, dict) or before.get(key) != run[key]]
    raise LorankError(
        f"{target} holds another run, which differs in its {', '.join(differs)}: "
        "choose another folder, or delete it"
    )


def _begin(target: Path, run: dict[str, Any]) -> Path:
    """Make the run's folder, or go on in it if it is the same run's."""
    work, note = target / WORK, target / WORK / "run.json"
    if note.is_file():
        _same(target, json.loads(note.read_text(encoding="utf-8")), run)
        return work
    if [path.name for path in target.glob("*")] != [WORK]:  # another process may just begin
        check_empty(target)
    target.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    _write_json(note, run)
    return work


def _write_json(path: Path, content: Any) -> None:
    with replacing(path) as draft:
        draft.write_text(json.dumps(content), encoding="utf-8")


def _paying(ranks: dict[str, int], spectra: Spectra) -> dict[str, int]:
    """Keep the ranks that save something; the other layers stay as they are."""
    return {
        name: rank
        for name, rank in ranks.items()
        if rank < spectra[name].full_rank and rank <= spectra[name].break_even
    }


class _EndedError(Exception):
    """The run has ended while a process waited for one of its files."""


class _Job:
    """One process's share of a run."""

    def __init__(
        self,
        folder: Folder,
        target: Path,
        work: Path,
        found: Plan,
        layout: str,
        process: int,
        processes: int,
        tell: Callable[[str], None],
    ):
        self.folder, self.target, self.work, self.plan = folder, target, work, found
        self.layout, self.tell = layout, tell
        self.process, self.processes = process, processes
        self.number = {site.name: k for k, site in enumerate(found.sites)}
        self.outputs = [target / name for name in own_names(len(folder.files))]

    def carry_out(self, run: dict[str, Any], choose: Choice) -> dict[str, Any]:
        """Go through both passes; the main process then makes the folder a whole one."""
        spectra = self.measure()
        ranks = _paying(choose(spectra), spectra)
        self.factor(spectra, ranks)
        self.assemble(ranks)
        summary = _summary(run, self.plan, spectra, ranks)
        if self.process == 0:
            self.finish(summary, ranks, spectra)
        return summary

    def measure(self) -> Spectra:
        """Take the singular values of this process's weights, and wait for the others'."""
        files = [self._spectrum_file(site) for site in self.plan.sites]
        todo = [s for s in self._mine() if not self._spectrum_file(s).exists()]
        self._each(todo, _named(self._measure), "singular values")
        self._wait_for(files)
        table = {site.name: self._spectrum(site) for site in self.plan.sites}
        return Spectra(table, params=self.plan.params, macs=self.plan.macs)

    def _measure(self, site: Site) -> None:
        here = with_weight(site, self._weight(site))
        layout = choose_layout(here, self.layout)
        values = gram_singular_values(here.view(layout).matrix(here.module.weight))
        content = {"layer": site.name, "layout": layout, "values": values.tolist()}
        _write_json(self._spectrum_file(site), content)

    def _spectrum(self, site: Site) -> Spectrum:
        content = json.loads(self._spectrum_file(site).read_text(encoding="utf-8"))
        view = site.view(content["layout"])
        return Spectrum(
            torch.tensor(content["values"], dtype=torch.float64),
            view.shape,
            view.layout,
            Price(*site.weights(view)),
            site_macs(site, view, nominal(site)),
            limit(site, view),
        )

    def factor(self, spectra: Spectra, ranks: dict[str, int]) -> None:
        """Make the factors of this process's weights that no finished shard holds yet."""
        todo = [s for s in self._mine() if s.name in ranks and not self._factored(s)]

        def work(site: Site) -> None:
            self._factor(site, spectra[site.name], ranks[site.name])

        self._each(todo, _named(work), "thin factors")

    def _factored(self, site: Site) -> bool:
        return self._factor_file(site).exists() or self.outputs[self._shard(site)].exists()

    def _factor(self, site: Site, spectrum: Spectrum, rank: int) -> None:
        weight = self._weight(site)
        here = with_weight(site, weight.to(torch.promote_types(weight.dtype, torch.float32)))
        view = here.view(spectrum.layout)
        cut = leading(view.matrix(here.module.weight), rank, spectrum.values)
        factors = SVD(*(nn.Parameter(f.contiguous(), requires_grad=False) for f in cut))
        shared: Shared = {}
        parts: dict[str, Part] = {}
        done: set[int] = set()
        for path, base in self.plan.bases[site.name].items():
            module: Any = here.members[path]
            kind = svd_form(module)
            assert kind is not None
            layer = kind.from_dense(module, factors, view, getattr(module, "bias", None))
            for name, value in layer.plain(True, shared=shared).named_parameters():
                if value.device.type != "meta" and id(value) not in done:
                    done.add(id(value))
                    parts[f"{base}.{name}"] = shards.held(value.to(weight.dtype))
        shards.write(self._factor_file(site), parts, {"format": "pt"})

    def assemble(self, ranks: dict[str, int]) -> None:
        """Put this process's shards together, and wait for the others'."""
        for k, (file, output) in enumerate(zip(self.folder.files, self.outputs, strict=True)):
            if k % self.processes == self.process and not output.exists():
                self._assemble(file, output, ranks)
        self._wait_for(self.outputs)

    def _assemble(self, file: Path, output: Path, ranks: dict[str, int]) -> None:
        held = [s for s in self.plan.sites if s.name in ranks and self._home(s).path == file]
        factors = [self._factor_file(site) for site in held]
        self._wait_for(factors)
        moved = {old: new for name in ranks for old, new in self.plan.biases[name].items()}
        parts: dict[str, Part] = {}
        for name, entry in shards.entries(file).items():
            if self.plan.gone.get(name) not in ranks and name not in self.plan.twice:
                parts[moved.get(name, name)] = shards.copied(entry)
        for path in factors:
            parts |= {name: shards.copied(e) for name, e in shards.entries(path).items()}
        shards.write(output, parts, {"format": "pt"})
        for path in factors:
            path.unlink()
        self.tell(f"wrote {output.name}")

    def finish(self, summary: dict[str, Any], ranks: dict[str, int], spectra: Spectra) -> None:
        """Write what makes the folder a whole one, and clear the run's folder away."""
        copy_others(self.folder.path, self.target)
        found = {file.name: shards.entries(file) for file in self.outputs}
        where = {name: file for file, entries in found.items() for name in entries}
        size = sum(e.size for entries in found.values() for e in entries.values())
        write_index(self.target, where, size)
        layers = {
            base: {"form": "pair", "layout": spectra[name].layout, "rank": rank}
            for name, rank in ranks.items()
            for base in self.plan.bases[name].values()
        }
        for draft in self.target.rglob(".*"):  # left by a process that was killed
            if draft.is_file() and WORK not in draft.parts:
                draft.unlink()
        write_manifest(
            self.target,
            {"class": self.plan.found_by, "layers": layers, "tied": {}, "info": summary},
        )
        shutil.rmtree(self.work)

    def _wait_for(self, files: Iterable[Path]) -> None:
        """Wait for files that other processes make."""
        for file in files:
            while not file.exists():
                if is_compressed(self.target):
                    raise _EndedError
                time.sleep(PATIENCE)

    def _weight(self, site: Site) -> Tensor:
        return shards.read(self._home(site))

    def _home(self, site: Site) -> shards.Entry:
        return self.folder.entries[self.plan.homes[site.name]]

    def _shard(self, site: Site) -> int:
        return self.folder.files.index(self._home(site).path)

    def _spectrum_file(self, site: Site) -> Path:
        return self.work / f"spectrum-{self.number[site.name]:05d}.json"

    def _factor_file(self, site: Site) -> Path:
        return self.work / f"factors-{self.number[site.name]:05d}.safetensors"

    def _mine(self) -> list[Site]:
        return shares(self.plan.sites, self.processes)[self.process]

    def _each(self, todo: Sequence[Site], work: Callable[[Site], None], what: str) -> None:
        """Work on weights side by side, one thread each; the first fault stops all."""
        if not todo:
            return
        threads = torch.get_num_threads()
        told = time.monotonic()
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting: set[Future] = {pool.submit(work, site) for site in todo}
            while waiting:
                done, waiting = wait(waiting, timeout=1, return_when=FIRST_EXCEPTION)
                fault = next((f.exception() for f in done if f.exception()), None)
                if fault is not None:
                    pool.shutdown(cancel_futures=True)
                    raise fault
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    self.tell(f"{what}: {len(todo) - len(waiting)} of {len(todo)} weights")


def _named(work: Callable[[Site], None]) -> Callable[[Site], None]:
    """Say which layer an error of the numbers is about."""

    def named(site: Site) -> None:
        try:
            work(site)
        except LorankError as error:
            raise layer_error(site, error) from None

    return named


def shares(sites: Iterable[Site], processes: int) -> list[list[Site]]:
    """Split weights evenly by the work of their decomposition; the same for every process.

    Example:
        >>> from lorank.nn.surgery import sites
        >>> net = nn.Sequential(nn.Linear(9, 9), nn.Linear(4, 4), nn.Linear(5, 5))
        >>> [[site.name for site in share] for share in shares(sites(net), 2)]
        [['0'], ['2', '1']]
    """
    found: list[list[Site]] = [[] for _ in range(processes)]
    load = [0] * processes
    for site in sorted(sites, key=lambda s: (-_work(s), s.name)):
        least = load.index(min(load))
        found[least].append(site)
        load[least] += _work(site)
    return found


def _work(site: Site) -> int:
    rows, columns = site.view().shape
    return rows * columns * min(rows, columns)


def _summary(
    run: dict[str, Any], found: Plan, spectra: Spectra, ranks: dict[str, int]
) -> dict[str, Any]:
    return {
        "run": run,
        "found_by": found.found_by or "names",
        "before": {"params": found.params, "macs": found.macs},
        "after": {unit: cost_of(ranks, spectra, unit) for unit in ("params", "macs")},
        "layers": [_row(name, spectrum, ranks.get(name)) for name, spectrum in spectra.items()],
    }


def _row(name: str, spectrum: Spectrum, rank: int | None) -> dict[str, Any]:
    full = spectrum.full_rank
    kept = full if rank is None else rank
    share = 1 - float(lost(spectrum)[kept])
    return {
        "layer": name,
        "layout": spectrum.layout,
        "full_rank": full,
        "rank": kept,
        "energy": share if math.isfinite(share) else None,
        "params": spectrum.params.dense,
        "params_kept": spectrum.cost(kept, "params"),
        "macs": spectrum.macs.dense if spectrum.macs else None,
        "macs_kept": spectrum.cost(kept, "macs"),
        "stays_dense": "no rank that was chosen saves anything" if rank is None else None,
    }
