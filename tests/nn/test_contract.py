"""What every layer in SVD form keeps, kind by kind and layout by layout."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import lorank
import tolerance
from lorank.nn import Factored
from lorank.nn.factored import NEAR_TIE
from nn.layer_kinds import CASES, KINDS

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

cases = pytest.mark.parametrize(("name", "layout"), CASES)
kinds = pytest.mark.parametrize("name", KINDS)


def low(dense, layout="auto", rank=None):
    """The layer alone in SVD form, at full rank unless told."""
    if rank is None:
        return lorank.decompose(dense, layers=[""], layout=layout)
    return lorank.decompose(dense, {"": rank}, layout=layout)


def norm(weight):
    return float(weight.detach().double().norm())


def thin_ranks(name, layout):
    return range(1, min(KINDS[name].view(layout).shape) + 1)


def bound(name, weight, x, dtype, relative):
    """A relative change of a weight, as a change of the layer's output."""
    kind = KINDS[name]
    taps = math.prod(kind.view("channel").kernel_size)
    if kind.table:
        return relative * norm(weight) * math.sqrt(x.numel())
    copies = 1 if getattr(kind.make(), "padding_mode", "zeros") == "zeros" else 3 ** (x.ndim - 2)
    if kind.quaternion:  # the real counterpart, which runs, has each number four times
        copies *= 4
    return relative * tolerance.sweep_norm(weight, x, taps, copies)


def rounding(name, layout, dtype):
    """Relative error of a full-rank layer: of its decomposition, and of the sums it is in."""
    m, n = KINDS[name].view(layout).shape
    return tolerance.backward(m, n, dtype) + tolerance.product(m + n, dtype)


def assert_same_function(name, layout, a, b, x, weight):
    dtype = weight.dtype
    want = b(x)
    got = a(x)
    assert got.dtype == want.dtype and got.stride() == want.stride()
    allowed = bound(name, weight, x, dtype, rounding(name, layout, dtype))
    assert tolerance.distance(got, want) <= allowed


def best_approximation(name, weight, layout, rank):
    """The oracle: torch's SVD of a matrix made entry by entry from index arithmetic."""
    view = KINDS[name].view(layout)
    index = explicit_index(view)
    if KINDS[name].quaternion:
        return best_of_quaternions(weight, index[0], rank)
    flat = weight.detach().reshape(-1)
    best = torch.empty_like(flat)
    for block in index:
        U, S, Vh = torch.linalg.svd(flat[block], full_matrices=False)
        best[block] = (U[:, :rank] * S[:rank]) @ Vh[:rank]
    return best.reshape(weight.shape)


UNITS = {  # eᵢ·eⱼ = sign·e of the units 1, i, j, k
    (a, b): (
        (1, a + b)
        if 0 in (a, b)
        else (-1, 0)
        if a == b
        else (1 if b == a % 3 + 1 else -1, 6 - a - b)
    )
    for a in range(4)
    for b in range(4)
}


def best_of_quaternions(weight, index, rank):
    """The same of a quaternion matrix: by the real matrix of what multiplying by it does."""
    parts = weight.detach().flatten(1)[:, index]
    m, n = index.shape
    real = torch.zeros(4, m, 4, n, dtype=weight.dtype)
    for (a, b), (sign, c) in UNITS.items():
        real[c, :, b] += sign * parts[a]
    U, S, Vh = torch.linalg.svd(real.reshape(4 * m, 4 * n), full_matrices=False)
    cut = (U[:, : 4 * rank] * S[: 4 * rank]) @ Vh[: 4 * rank]
    best = torch.empty_like(weight).flatten(1)
    best[:, index] = cut.reshape(4, m, 4, n)[:, :, 0]
    return best.reshape(weight.shape)


def explicit_index(view):
    """Where entry (row, column) of each group's matrix stands in the weight's flat memory."""
    kernel, g = view.kernel_size, view.groups
    o, i = view.out_channels // g, view.in_channels // g
    axes = list(range(len(kernel)))
    inner = {
        "channel": [] if view.transposed else axes,
        "channel_reversed": axes if view.transposed else [],
        "spatial": axes[:1],
        "spatial_reversed": axes[-1:],
    }[view.layout]
    outer = [a for a in axes if a not in inner]
    index = torch.full((g, *view.shape), -1, dtype=torch.int64)
    for group, out, into in itertools.product(range(g), range(o), range(i)):
        for taps in itertools.product(*map(range, kernel)):
            at = (
                ((group * i + into) * o + out)
                if view.transposed
                else ((group * o + out) * i + into)
            )
            row, column = out, into
            for a in axes:
                at = at * kernel[a] + taps[a]
            for a in outer:
                row = row * kernel[a] + taps[a]
            for a in inner:
                column = column * kernel[a] + taps[a]
            index[group, row, column] = at
    assert index.unique().numel() == index.numel() and index.min() == 0
    return index


@cases
def test_full_rank_is_the_dense_layer(name, layout):
    dense, x = KINDS[name].layer(), KINDS[name].x()
    layer = low(dense, layout)
    assert isinstance(layer, Factored) and layer.view.layout == layout
    assert layer.rank == min(KINDS[name].view(layout).shape)
    gap = tolerance.distance(layer.weight, dense.weight) / norm(dense.weight)
    assert layer.weight.shape == dense.weight.shape and gap <= rounding(name, layout, torch.float64)
    for layer.contraction in ("auto", "rebuild", "thin"):
        assert_same_function(name, layout, layer, dense, x, dense.weight)
    assert (layer.S >= 0).all() and (layer.S.diff(dim=-1) <= 0).all()


@cases
def test_rank_r_is_the_best_approximation_in_its_layout(name, layout):
    dense = KINDS[name].layer()
    allowed = rounding(name, layout, torch.float64) * norm(dense.weight)
    full = low(dense, layout)
    for rank in {1, (full.rank + 1) // 2, full.rank}:
        best = best_approximation(name, dense.weight, layout, rank)
        direct = low(dense, layout, rank)
        cut = lorank.prune(full, {"": rank})
        for layer in (direct, cut):
            assert layer.rank == rank
            assert tolerance.distance(layer.weight, best) <= allowed


@cases
def test_both_orders_agree_in_output_and_gradients(name, layout):
    kind = KINDS[name]
    dense = kind.layer()
    layer = low(dense, layout, max(1, min(kind.view(layout).shape) - 1))
    with torch.no_grad():  # after training: signs, a zero, factors that are not orthonormal
        layer.S[..., 0] *= -1
        layer.U += 0.1 * torch.randn_like(layer.U)
        layer.Vh += 0.1 * torch.randn_like(layer.Vh)
    x = kind.x()
    upstream = torch.randn_like(layer(x))
    results = {}
    for order in ("rebuild", "thin"):
        layer.contraction = order
        leaf = x.clone().requires_grad_(not kind.table)
        layer.zero_grad()
        y = layer(leaf)
        y.backward(upstream)
        named = {n: p.grad for n, p in layer.named_parameters()}
        results[order] = {"y": y, "x": leaf.grad, **named}
    # Every gradient is one sum of products of the other operands, taken in two orders.
    terms = sum(kind.view(layout).shape) + x.numel() + upstream.numel()
    ones = [layer.U, layer.S, layer.Vh, *([] if kind.table else [x]), upstream]
    scale = math.prod(max(1.0, float(t.detach().double().norm())) for t in ones)
    taps = 3 * max(1, dense.weight[0, 0].numel())
    for what, got in results["thin"].items():
        want = results["rebuild"][what]
        assert (got is None) == (want is None)
        if got is not None:
            allowed = tolerance.product(terms, torch.float64) * scale * taps
            assert tolerance.distance(got, want) <= allowed, what


@cases
def test_negative_s_means_nothing(name, layout):
    layer, x = low(KINDS[name].layer(), layout), KINDS[name].x()
    want = layer(x)
    with torch.no_grad():
        layer.S[..., ::2] *= -1
    assert torch.equal(layer(x), want)
    assert (layer.spectrum().S >= 0).all()


@cases
def test_zeros_in_s_leave_gradients_finite(name, layout):
    kind = KINDS[name]
    layer = low(kind.layer(), layout)
    for first, layer.contraction in itertools.product((-1, 0), ("rebuild", "thin")):
        layer.zero_grad()
        with torch.no_grad():
            layer.S[..., first:] = 0
        x = kind.x()
        x = x if kind.table else x.requires_grad_()
        layer(x).square().sum().backward()
        grads = [p.grad for p in layer.parameters()] + ([] if kind.table else [x.grad])
        assert all(torch.isfinite(g).all() for g in grads)
        assert torch.isfinite(lorank.fold(layer)(x)).all()


@cases
def test_folded_both_ways_it_is_the_same_function(name, layout):
    kind = KINDS[name]
    x = kind.x()
    for rank in {1, max(thin_ranks(name, layout))}:
        layer = low(kind.layer(), layout, rank)
        for plain in (layer.plain(True), layer.plain(True, multiple=4), layer.plain(False)):
            assert not any(isinstance(m, Factored) for m in plain.modules())
            assert_same_function(name, layout, plain, layer, x, layer.weight)
        padded = sum(p.numel() for p in layer.plain(True, multiple=4).parameters())
        held = 0 if getattr(layer, "bias", None) is None else layer.bias.numel()
        assert padded == (rank + -rank % 4) * layer.view.weights()[1] + held


@cases
def test_the_pair_costs_what_its_price_says(name, layout):
    kind = KINDS[name]
    layer, x = low(kind.layer(), layout, 1), kind.x()
    with torch.no_grad():
        pair = layer.plain(True)
        with FlopCounterMode(display=False) as counter:
            y = pair(x)
    if kind.table:
        want = x.numel() * layer.view.shape[1]
    else:
        d = len(layer.view.kernel_size)
        batch = y.shape[:-1].numel() if d == 0 else (x.shape[0] if x.ndim == d + 2 else 1)
        sizes = ((), ()) if d == 0 else (tuple(x.shape[-d:]), tuple(y.shape[-d:]))
        want = batch * layer.view.macs(*sizes)[1]
    assert counter.get_total_flops() // 2 == want
    held = sum(p.numel() for n, p in pair.named_parameters() if n.endswith("weight"))
    assert held == layer.view.weights()[1]


def counted(layer, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    return counter.get_total_flops()


@cases
def test_auto_takes_the_cheaper_order(name, layout):
    kind = KINDS[name]
    for rank, batch in ((1, 64), (max(thin_ranks(name, layout)), 1)):
        layer, x = low(kind.layer(), layout, rank), kind.x(batch)
        work = {}
        for layer.contraction in ("auto", "rebuild", "thin"):
            work[layer.contraction] = counted(layer, x)
        if kind.table:
            assert work["auto"] == min(work.values())
            continue
        assert work["auto"] in (work["rebuild"], work["thin"])
        padded = getattr(layer, "padding_mode", "zeros") != "zeros"
        if not padded:  # padding first makes the thin order dearer than its pair
            thin = work["thin"] <= NEAR_TIE * work["rebuild"]
            assert work["auto"] == work["thin" if thin else "rebuild"]


@kinds
def test_unknown_contraction(name):
    layer = low(KINDS[name].layer())
    layer.contraction = "fast"
    with pytest.raises(
        lorank.LorankError, match=r"unknown contraction 'fast':.* auto, rebuild, thin"
    ):
        layer(KINDS[name].x())


@kinds
def test_state_survives_a_round_trip(name):
    layer, x = low(KINDS[name].layer(), "channel"), KINDS[name].x()
    other = low(KINDS[name].layer(), "channel")
    other.load_state_dict(layer.state_dict())
    twin = copy.deepcopy(layer)
    assert torch.equal(other(x), layer(x)) and torch.equal(twin(x), layer(x))
    assert not {p.data_ptr() for p in twin.parameters()} & {
        p.data_ptr() for p in layer.parameters()
    }
    assert set(layer.state_dict()) <= {"U", "S", "Vh", "bias"}
    with torch.no_grad():
        twin.S.zero_()
    assert layer.S.any()
    assert "rank=" in repr(layer)


@kinds
def test_modes_and_flags_are_kept(name):
    for training, trained in itertools.product((True, False), repeat=2):
        dense = KINDS[name].layer().train(training).requires_grad_(trained)
        if getattr(dense, "bias", None) is not None:
            dense.bias.requires_grad_(not trained)
        with torch.no_grad():
            layer = low(dense)
        again = lorank.fold(layer)
        for made in (layer, lorank.prune(layer, {"": 1}), again, layer.plain(True)):
            assert all(m.training == training for m in made.modules())
            for key, p in made.named_parameters():
                assert p.requires_grad == (trained != key.endswith("bias")), key
                assert p.is_leaf and p.dtype == torch.float64 and p.is_contiguous()
        assert type(again) is type(dense)


HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@kinds
def test_other_precisions(name, dtype):
    kind = KINDS[name]
    exact, x = kind.layer(), kind.x()
    dense = copy.deepcopy(exact).to(dtype)
    x = x if kind.table else x.to(dtype)
    try:
        want = dense(x)
    except (RuntimeError, NotImplementedError):
        pytest.skip(f"this torch has no {dtype} kernel for it")
    layer = low(dense)
    again = low(exact).to(dtype)
    assert all(p.dtype == dtype for p in layer.parameters())
    view = layer.view
    # Storing the factors, then the roundings of U·S, of the weight or the map between, of the
    # output, and of the dense output: one unit each, relative to the norms.
    u = tolerance.eps(dtype) / 2
    relative = tolerance.storage(dtype) + 4 * u
    relative += tolerance.backward(*view.shape, torch.float32)
    relative += tolerance.product(sum(view.shape), torch.float32)
    allowed = bound(name, dense.weight, x, dtype, relative)
    for made in (layer, again):
        for made.contraction in ("auto", "rebuild", "thin"):
            got = made(x)
            assert got.dtype == want.dtype
            extra = 0.0 if made is layer else bound(name, dense.weight, x, dtype, u)
            assert tolerance.distance(got, want) <= allowed + extra
    folded = lorank.fold(layer)
    assert all(p.dtype == dtype for p in folded.parameters())
    assert tolerance.distance(folded(x), want) <= allowed


@kinds
def test_under_autocast(name):
    kind = KINDS[name]
    dense, x = kind.layer().float(), kind.x()
    x = x if kind.table else x.float()
    layer = low(dense)
    with torch.autocast("cpu", torch.bfloat16):
        try:
            want = dense(x)
        except (RuntimeError, NotImplementedError):
            pytest.skip("this torch does not run the dense layer under autocast")
        for layer.contraction in ("auto", "rebuild", "thin"):
            got = layer(x)
            # Operands rounded in both, the factors and what is made of them: eight units at most.
            allowed = bound(name, dense.weight, x, torch.bfloat16, 8 * 2**-8)
            assert tolerance.distance(got, want) <= allowed
            assert kind.table or got.dtype == want.dtype
            got.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("name", [n for n in KINDS if n.startswith("transposed")])
def test_output_size_of_transposed_convolutions(name):
    kind = KINDS[name]
    dense, x = kind.layer(), kind.x()
    d = len(dense.kernel_size)
    dense.output_padding = (0,) * d
    least = dense(x).shape[-d:]
    for layout in kind.layouts:
        layer = low(dense, layout)
        for more in itertools.product(*(range(s) for s in dense.stride)):
            size = [n + m for n, m in zip(least, more, strict=True)]
            for asked in (size, [x.shape[0], x.shape[1], *size] if x.ndim == d + 2 else size):
                want = dense(x, output_size=asked)
                for layer.contraction in ("rebuild", "thin"):
                    got = layer(x, output_size=asked)
                    assert got.shape == want.shape
                    allowed = bound(name, dense.weight, x, x.dtype, rounding(name, layout, x.dtype))
                    assert tolerance.distance(got, want) <= allowed


def test_configuration_is_kept_by_folding():
    for name, kind in KINDS.items():
        dense = kind.layer()
        again = lorank.fold(low(dense))
        for key in dense.__constants__ if hasattr(dense, "__constants__") else ():
            if key == "padding" and dense.padding == "valid":
                continue
            assert getattr(again, key) == getattr(dense, key), (name, key)


def test_layers_read_like_their_dense_twins():
    conv = low(nn.Conv2d(4, 6, (3, 5), stride=2, padding=1, dilation=2, groups=2))
    assert (conv.in_channels, conv.out_channels, conv.groups) == (4, 6, 2)
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 5), (2, 2), (1, 1))
    assert (conv.dilation, conv.output_padding, conv.transposed) == ((2, 2), (0, 0), False)
    linear = low(nn.Linear(4, 6))
    assert (linear.in_features, linear.out_features, linear.bias.shape) == (4, 6, (6,))
    table = low(nn.Embedding(9, 4, padding_idx=2))
    assert (table.num_embeddings, table.embedding_dim, table.padding_idx) == (9, 4, 2)
    x = torch.randn(3, 4)
    assert torch.equal(linear(input=x), linear(x))


def test_a_padding_row_is_never_trained():
    """Not even through Vh, when the row holds something; the dense table does the same."""
    dense = nn.Embedding.from_pretrained(torch.randn(6, 4), freeze=False, padding_idx=1)
    layer = low(dense, "channel", 2)
    for layer.contraction in ("thin", "rebuild"):
        layer.zero_grad()
        layer(torch.tensor([1, 1])).sum().backward()
        assert not any(p.grad.any() for p in layer.parameters())


FOLDED = ["linear", "conv2d", "conv2d groups", "transposed2d stride", "embedding", "conv2d reflect"]


@pytest.mark.parametrize("name", FOLDED)
def test_folded_layers_export(name):
    kind = KINDS[name]
    pair, x = low(kind.layer(), rank=1).plain(True).eval(), kind.x()
    exported = torch.export.export(pair, (x,)).module()
    assert torch.equal(exported(x), pair(x))


@pytest.mark.parametrize("name", FOLDED[::2])
def test_layers_compile(name):
    kind = KINDS[name]
    layer, x = low(kind.layer(), rank=1), kind.x()
    for module in (layer, layer.plain(True)):
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        assert_same_function(name, layer.view.layout, compiled, module, x, layer.weight)
