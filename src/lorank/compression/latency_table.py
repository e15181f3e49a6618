"""What does each layer take on this device, dense and at the ranks that matter?"""

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lorank.compression.latency import device_of
from lorank.compression.trace import Example, describe, evaluating, run
from lorank.compression.turns import quartile, ratio, turns
from lorank.compression.twin import (
    dense_twin,
    formatted,
    is_channels_last,
    random_factors,
    thin,
)
from lorank.errors import LorankError
from lorank.nn.surgery import Site, opened, sites
from lorank.ranks import Spectra, Spectrum, Times
from lorank.ranks.per_layer import check, check_multiple
from lorank.ranks.times import fit

KNOTS = 6
"""Ranks of one layer that are timed, at most; times between them are interpolated."""

PATIENCE = 1.5
"""Seconds that the rounds of one geometry may take; at least five are run."""


@dataclass(frozen=True)
class Setting:
    """What a measured time belongs to: times of one setting say nothing about another.

    Attributes:
        device: kind of processor.
        threads: threads of one operation on the CPU.
        batch: size of the input's first axis.
        inputs: what the network was called with, in words.
        dtype: of the weights.
        channels_last: whether kernels lie in channels-last order.
        torch: version.
    """

    device: str
    threads: int
    batch: int
    inputs: str
    dtype: str
    channels_last: bool
    torch: str


class Input(NamedTuple):
    """Shape, order in memory and dtype of what a layer reads."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def draw(self, device: torch.device) -> Tensor:
        """Draw an input; whole numbers are 0, which every table has."""
        stride = self.stride
        if any(step == 0 and size > 1 for size, step in zip(self.shape, stride, strict=True)):
            stride = torch.empty(self.shape, device="meta").stride()
        x = torch.empty_strided(self.shape, stride, dtype=self.dtype, device=device)
        return x.normal_() if x.is_floating_point() else x.zero_()


class Geometry(NamedTuple):
    """A call of a layer, by all that its time depends on: equal ones take as long."""

    layer: str
    input: Input
    weight: tuple[Any, ...]


Calls = dict[int, list[Geometry]]
"""Calls of one forward pass, by identity of the layer."""

Pairs = dict[tuple[Geometry, str, tuple[int, ...]], dict[int, float]]
"""Seconds of a call as a share of the dense one, by rank, for a layout and some ranks."""


@dataclass(frozen=True)
class LatencyTable:
    """Measured times of a network's layers, a plain value.

    Attributes:
        setting: what they were measured on.
        dense: time of the whole dense network, in nanoseconds.
        layers: layer name → times.
        layouts: layer name → layout of its pairs.
    """

    setting: Setting
    dense: int
    layers: dict[str, Times]
    layouts: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """Return the table in the words of JSON."""
        return asdict(self)

    @classmethod
    def read(cls, content: Any) -> "LatencyTable":
        """Make a table from the words of JSON.

        Raises:
            LorankError: if it is not one.
        """
        try:
            layers = {
                str(name): Times(
                    entry["dense"],
                    {int(rank): time for rank, time in entry["ranks"].items()},
                    entry["multiple"],
                )
                for name, entry in content["layers"].items()
            }
            dense = Times(content["dense"], {}).dense
            layouts = {str(name): str(content["layouts"][name]) for name in layers}
            return cls(Setting(**content["setting"]), dense, layers, layouts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, LorankError):
                raise
            raise LorankError(
                "a table of measured times has a setting, the dense time, and layers with their "
                f"times and layouts; found none: {type(error).__name__} {error}"
            ) from None


def latency_table(
    model: nn.Module,
    example: Example,
    spectra: Mapping[str, Spectrum],
    *,
    multiple: int = 8,
    threads: int | None = None,
    repeats: int = 21,
    warmup: int = 2,
) -> LatencyTable:
    """Time each layer dense and as two thin layers, as it runs in this network on this device.

    Layers that are alike (kind, kernel, input shape, dtype, order in memory) are timed once, each
    against its pairs in turns, on inputs like those of one forward pass. On a CPU the dense time is
    then that inside the network, where caches are colder. It is the lower quartile of the rounds: a
    neighbour on the machine only ever adds; the pairs' times are the median of their ratios to the
    dense call before them. Between the ranks that are timed, multiples of ``multiple`` up to the
    break-even, times are interpolated, and they never fall with the rank.

    Args:
        model: the network, on the device and in the order in memory that it will run in; layers
            in SVD form are timed dense and at their ranks, too.
        example: what it is called with, with the batch that matters.
        spectra: of :func:`lorank.measure`; says the layouts and the ranks that pay.
        multiple: ranks that are looked at.
        threads: threads of one operation on the CPU; by default as torch is set.
        repeats: rounds, at most; a layer of long rounds has fewer, but five.
        warmup: rounds before, which are not counted.

    Returns:
        The table; :func:`timed` brings it into the spectra.

    Raises:
        LorankError: if the model does not run on the example, calls none of the layers, calls
            them with sizes that depend on the input's values, or a number is out of range.

    Cost: about a second for each distinct layer, and a few forward passes.

    Example:
        >>> import lorank
        >>> model, x = nn.Sequential(nn.Linear(64, 64)), torch.ones(9, 64)
        >>> table = latency_table(model, x, lorank.measure(model, x), repeats=3)
        >>> list(table.layers["0"].ranks), table.setting.batch
        ([8, 16, 24], 9)
    """
    check(spectra)
    check_multiple(multiple)
    check_counts(repeats, warmup, threads)
    reference = dense_twin(model)
    setting = setting_of(reference, example, threads)
    source = opened(reference)
    found = {site.name: site for site in sites(source) if site.name in spectra}
    calls = _calls(source, found, example)
    _refuse_moving(source, found, example, calls)
    timing = {"repeats": repeats, "warmup": warmup, "threads": threads}
    clock = _Clock(calls, multiple, timing)
    with evaluating(reference), evaluating(source):
        whole = clock.look(reference, source, example)
        layers = {
            name: clock.times(found[name], layer) if name in found else Times(0, {}, multiple)
            for name, layer in spectra.items()
        }
    layouts = {name: layer.layout for name, layer in spectra.items()}
    return LatencyTable(setting, round(1e9 * whole), layers, layouts)


def timed(spectra: Mapping[str, Spectrum], table: LatencyTable) -> Spectra:
    """Copy spectra with the times of a table, so that a budget can be one of latency.

    What is never cut takes the time of the dense network less that of its layers. Where layers on
    their own take longer than all together, it takes none, and the whole is their sum.

    Args:
        spectra: what the table was measured for.
        table: measured times.

    Raises:
        LorankError: if the table is for other layers or layouts.

    Example:
        >>> import lorank
        >>> model, x = nn.Sequential(nn.Linear(64, 64)), torch.ones(9, 64)
        >>> spectra = lorank.measure(model, x)
        >>> spectra = timed(spectra, latency_table(model, x, spectra, repeats=3))
        >>> spectra.latency >= spectra["0"].times.dense > 0
        True
    """
    for name, layer in spectra.items():
        if name not in table.layers:
            raise LorankError(f"this table of times has no layer {name!r}: measure it anew")
        if table.layouts[name] != layer.layout:
            raise LorankError(
                f"the times of layer {name!r} were measured in layout {table.layouts[name]!r}, "
                f"and its spectrum is in {layer.layout!r}: measure them anew"
            )
    priced = copy.copy(spectra) if isinstance(spectra, Spectra) else Spectra(spectra)
    for name, layer in spectra.items():
        priced[name] = replace(layer, times=table.layers[name])
    priced.latency = max(table.dense, sum(table.layers[name].dense for name in spectra))
    return priced


def check_setting(
    table: LatencyTable, model: nn.Module, example: Example, threads: int | None = None
) -> None:
    """Refuse a table that was measured in another setting.

    Raises:
        LorankError: if anything differs; it says what.

    Example:
        >>> import lorank
        >>> model, x = nn.Sequential(nn.Linear(64, 64)), torch.ones(9, 64)
        >>> table = latency_table(model, x, lorank.measure(model, x), repeats=3)
        >>> check_setting(table, model, torch.ones(2, 64))
        Traceback (most recent call last):
        ...
        lorank.errors.LorankError: ... batch is 2 and was 9; inputs is ... measure it anew
    """
    here, there = asdict(setting_of(model, example, threads)), asdict(table.setting)
    other = [
        f"{key} is {here[key]} and was {there[key]}" for key in here if here[key] != there[key]
    ]
    if other:
        raise LorankError(
            f"a table of times holds in the setting that it was measured in, and "
            f"{'; '.join(other)}: measure it anew"
        )


def setting_of(model: nn.Module, example: Example, threads: int | None = None) -> Setting:
    """Describe what a time would belong to.

    Raises:
        LorankError: if the example has no tensor, or an empty one.

    Example:
        >>> setting_of(nn.Linear(2, 2), torch.ones(3, 2), threads=1).inputs
        'a tensor of shape (3, 2)'
    """
    tensors = list(_tensors(example))
    if not tensors or any(t.numel() == 0 for t in tensors):
        raise LorankError(
            f"timing needs an input of at least one sample, found {describe(example)}"
        )
    dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
    return Setting(
        device=_device_kind(device_of(model)),
        threads=threads or torch.get_num_threads(),
        batch=tensors[0].shape[0] if tensors[0].ndim else 1,
        inputs=describe(example),
        dtype=" and ".join(dtypes),
        channels_last=is_channels_last(model),
        torch=torch.__version__,
    )


def check_counts(repeats: int, warmup: int, threads: int | None) -> None:
    """Insist on counts that can be timed.

    Raises:
        LorankError: if one is out of range.
    """
    counts = (("repeats", repeats, 1), ("warmup", warmup, 0), ("threads", threads, 1))
    for name, value, least in counts:
        if value is not None and value < least:
            raise LorankError(f"{name} must be at least {least}, found {value}")


def _device_kind(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


def _tensors(example: Example) -> Iterator[Tensor]:
    if isinstance(example, Tensor):
        yield example
    elif isinstance(example, Mapping):
        for value in example.values():
            yield from _tensors(value)
    elif isinstance(example, (tuple, list)):
        for value in example:
            yield from _tensors(value)


def _calls(model: nn.Module, found: Mapping[str, Site], example: Example) -> Calls:
    """Inputs of every watched layer in one forward pass, by identity of the layer."""
    members = [m for site in found.values() for m in site.members.values()]
    calls: Calls = {id(m): [] for m in members}
    with ExitStack() as stack:
        for module in members:
            stack.callback(_watch(module, calls[id(module)]))
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode())
        try:
            run(model, example)
        except Exception as error:
            raise LorankError(
                f"the model must run on the example, and failed on {describe(example)}: {error}"
            ) from error
    if not any(calls.values()):
        raise LorankError("the example reaches none of the layers that could be cut")
    return calls


def _watch(module: nn.Module, calls: list[Geometry]) -> Callable[[], None]:
    def note(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        x, weight = next(_tensors([*args, *named.values()])), module.get_parameter("weight")
        facts = tuple(weight.shape), weight.stride(), weight.dtype
        calls.append(Geometry(repr(module), Input(tuple(x.shape), x.stride(), x.dtype), facts))

    return module.register_forward_pre_hook(note, with_kwargs=True).remove


def _refuse_moving(
    model: nn.Module, found: Mapping[str, Site], example: Example, calls: Calls
) -> None:
    """Refuse a network whose layers see other sizes when the input has other values."""
    try:
        again = _calls(model, found, _altered(example))
    except LorankError:
        return  # these values are not for this network, which says nothing about the others
    for name, site in found.items():
        for module in site.members.values():
            before, after = (
                [call.input.shape for call in seen[id(module)]] for seen in (calls, again)
            )
            if before != after:
                raise LorankError(
                    f"a time is measured for sizes that stay, and those of layer {name!r} depend "
                    f"on the input's values: it read {before} and then {after}"
                )


def _altered(example: Example) -> Any:
    """Return an input of the same shapes with other values, in the range of the old ones."""
    if isinstance(example, Tensor):
        return -example if example.is_floating_point() else example.flip(-1)
    if isinstance(example, Mapping):
        return {key: _altered(value) for key, value in example.items()}
    if isinstance(example, (tuple, list)):
        return type(example)(map(_altered, example)) if type(example) in (tuple, list) else example
    return example


class _Clock:
    """Looks at the clock, once for all layers that are alike."""

    def __init__(self, calls: Calls, multiple: int, timing: Mapping[str, Any]):
        self.calls = calls
        self.multiple = multiple
        self.timing = timing
        self.dense: dict[Geometry, float] = {}
        self.pairs: Pairs = {}

    def look(self, model: nn.Module, source: nn.Module, example: Example) -> float:
        """Time the network, and on a CPU its layers inside it; return the network's seconds.

        A pass is cut into pieces at every layer's beginning and end, and each piece has its own
        quartile: the network is their sum, so that an interruption is not charged to it. Waiting
        for an accelerator at every layer would take away what it does meanwhile: there layers
        are timed alone. So is the whole where attention was opened to reach its layers.
        """
        device, timing = device_of(model), {**self.timing, "seconds": PATIENCE}
        if device.type != "cpu":
            call = partial(run, model, example)
            return quartile(turns({0: call}, device=device, **timing)[0])
        passes: list[list[tuple[int, float]]] = []
        calls = {0: partial(_clocked, source, example, self.calls, passes)}
        if source is not model:
            calls[1] = partial(run, model, example)
        seconds = turns(calls, device=device, **timing)
        passes = passes[-len(seconds[0]) :]
        marks = [layer for layer, _ in passes[0]]
        pieces = [
            quartile([after[1] - before[1] for before, after in zip(*two, strict=True)])
            for two in itertools.pairwise(zip(*passes, strict=True))
        ]
        self._note_dense(marks, pieces)
        return sum(pieces) if source is model else quartile(seconds[1])

    def _note_dense(self, marks: list[int], pieces: list[float]) -> None:
        """Dense seconds of a geometry: the mean over its calls inside the network."""
        found: dict[Geometry, list[float]] = {}
        count = dict.fromkeys(self.calls, 0)
        for layer, piece in zip(marks, pieces, strict=False):
            if layer:
                found.setdefault(self.calls[layer][count[layer]], []).append(piece)
                count[layer] += 1
        self.dense = {call: statistics.fmean(pieces) for call, pieces in found.items()}

    def times(self, site: Site, spectrum: Spectrum) -> Times:
        """Times of one weight, over every call of every layer that holds it."""
        ranks = knots(min(spectrum.break_even, spectrum.values.shape[-1]), self.multiple)
        dense, thin_ones = 0.0, dict.fromkeys(ranks, 0.0)
        for module in site.members.values():
            for call in self.calls[id(module)]:
                shares = self._shares(site, module, call, spectrum.layout, ranks)
                dense += self.dense[call]
                for rank in ranks:
                    thin_ones[rank] += self.dense[call] * shares[rank]
        return fit(dense, thin_ones if dense else {}, self.multiple)

    def _shares(
        self, site: Site, module: nn.Module, call: Geometry, layout: str, ranks: tuple[int, ...]
    ) -> dict[int, float]:
        key = call, layout, ranks
        if key not in self.pairs:
            found = _time_layer(site, module, call.input, layout, ranks, self.timing)
            self.dense.setdefault(call, quartile(found[0]))
            self.pairs[key] = {rank: ratio(found[rank], found[0]) for rank in ranks}
        return self.pairs[key]


def _clocked(
    model: nn.Module, example: Example, watched: Calls, passes: list[list[tuple[int, float]]]
) -> None:
    """Run a network once, with a mark at each beginning (the layer's) and end (0) of a layer."""
    marks: list[tuple[int, float]] = []

    def enter(module: nn.Module, _: Any) -> None:
        marks.append((id(module), time.perf_counter()))

    def leave(*_: Any) -> None:
        marks.append((0, time.perf_counter()))

    with ExitStack() as stack:
        for module in model.modules():
            if id(module) in watched:
                stack.callback(module.register_forward_pre_hook(enter).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        leave()
        run(model, example)
        leave()
    passes.append(marks)


def knots(most: int, multiple: int) -> tuple[int, ...]:
    """Ranks to time: multiples up to a largest rank, all or some, the first and last among them.

    Example:
        >>> knots(30, 8), knots(300, 8), knots(7, 8)
        ((8, 16, 24), (8, 16, 32, 72, 144, 296), ())
    """
    steps = most // multiple
    if steps <= KNOTS:
        return tuple(multiple * step for step in range(1, steps + 1))
    spread = {round(steps ** (i / (KNOTS - 1))) for i in range(KNOTS)}
    return tuple(multiple * step for step in sorted(spread))


def _time_layer(
    site: Site,
    module: nn.Module,
    read: Input,
    layout: str,
    ranks: tuple[int, ...],
    timing: Mapping[str, Any],
) -> dict[int, list[float]]:
    """Seconds of one call on its own, round by round: dense at 0, and the pair at each rank."""
    device = device_of(module)
    x = read.draw(device)
    calls = {0: partial(module, x)}
    for rank in ranks:
        pair = thin(module, random_factors(site, layout, rank)).eval()
        calls[rank] = partial(formatted(pair, module), x)
    return turns(calls, device=device, seconds=PATIENCE, **timing)
