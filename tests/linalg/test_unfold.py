"""A kernel as a matrix and back, against index arithmetic written out."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import tolerance
from lorank import LorankError
from lorank.linalg import Unfolding
from lorank.linalg.unfold import LAYOUTS

CONV = {
    1: (F.conv1d, F.conv_transpose1d),
    2: (F.conv2d, F.conv_transpose2d),
    3: (F.conv3d, F.conv_transpose3d),
}
KERNELS = [(), (1,), (4,), (1, 1), (3, 3), (5, 3), (1, 3), (3, 1), (2, 3, 2), (1, 1, 3), (3, 1, 1)]
CASES = [
    (kernel, groups, transposed, layout)
    for kernel, groups, transposed, layout in itertools.product(
        KERNELS, (1, 2), (False, True), LAYOUTS
    )
    if (kernel or (groups == 1 and not transposed))
    and layout in Unfolding(4, 6, kernel, groups, transposed).possible()
]


def swept_by_inner(kernel, transposed, layout):
    """The table at the head of the module, axis by axis."""
    axes = range(len(kernel))
    if layout == "spatial":
        return [a for a in axes if a == 0]
    if layout == "spatial_reversed":
        return [a for a in axes if a == len(kernel) - 1]
    everything = {("channel", False), ("channel_reversed", True)}
    return list(axes) if (layout, transposed) in everything else []


def by_hand(weight, groups, transposed, inner):
    """The matrix of each group, entry by entry."""
    kernel = weight.shape[2:]
    if transposed:
        per_group_out, per_group_in = weight.shape[1], weight.shape[0] // groups
    else:
        per_group_out, per_group_in = weight.shape[0] // groups, weight.shape[1]
    outer = [a for a in range(len(kernel)) if a not in inner]

    def place(channel, taps, axes):
        at = channel
        for a in axes:
            at = at * kernel[a] + taps[a]
        return at

    rows = per_group_out * torch.Size(kernel[a] for a in outer).numel()
    columns = per_group_in * torch.Size(kernel[a] for a in inner).numel()
    matrix = torch.full((groups, rows, columns), torch.nan, dtype=weight.dtype)
    values = weight.tolist()
    for g, o, i in itertools.product(range(groups), range(per_group_out), range(per_group_in)):
        for taps in itertools.product(*map(range, kernel)):
            first, second = (g * per_group_in + i, o) if transposed else (g * per_group_out + o, i)
            entry = values[first][second]
            for t in taps:
                entry = entry[t]
            matrix[g, place(o, taps, outer), place(i, taps, inner)] = entry
    return matrix if groups > 1 else matrix[0]


def make_weight(kernel, groups, transposed, out=4, into=6):
    ends = (into, out // groups) if transposed else (out, into // groups)
    return torch.randn(*ends, *kernel, dtype=torch.float64)


@pytest.mark.parametrize(("kernel", "groups", "transposed", "layout"), CASES)
def test_matrix_is_the_table_and_kernel_its_inverse(kernel, groups, transposed, layout):
    view = Unfolding(4, 6, kernel, groups, transposed, layout)
    weight = make_weight(kernel, groups, transposed)
    want = by_hand(weight, groups, transposed, swept_by_inner(kernel, transposed, layout))
    got = view.matrix(weight)
    assert got.shape[-2:] == view.shape
    assert torch.equal(got, want)
    assert torch.equal(view.kernel(got), weight)
    # a view of other memory is read just as well
    strided = weight.flip(0).flip(0).transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(view.matrix(strided), want)
    assert torch.equal(view.matrix(view.kernel(want)), want)


def run_pair(view, U, Vh, x, stride, padding):
    """Inner, then outer operation, by torch's functions alone."""
    d = len(view.kernel_size)
    inner, outer = view.inner_kernel(Vh), view.outer_kernel(U)
    if d == 0:
        return x @ inner.T @ outer.T
    for kernel, axes in ((inner, view.inner_axes), (outer, view.outer_axes)):
        own = [a in axes for a in range(d)]
        s = [stride if o else 1 for o in own]
        p = [padding if o else 0 for o in own]
        if view.transposed:
            stored = kernel.unflatten(0, (view.groups, -1)).transpose(1, 2).flatten(0, 1)
            x = CONV[d][1](x, stored, None, s, p, 0, view.groups)
        else:
            x = CONV[d][0](x, kernel, None, s, p, 1, view.groups)
    return x


def run_dense(view, weight, x, stride, padding):
    d = len(view.kernel_size)
    if d == 0:
        return x @ weight.T
    return CONV[d][view.transposed](x, weight, stride=stride, padding=padding, groups=view.groups)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1)])
@pytest.mark.parametrize(("kernel", "groups", "transposed", "layout"), CASES)
def test_the_pair_computes_the_dense_operation_at_the_macs_it_says(
    kernel, groups, transposed, layout, stride, padding
):
    if padding and transposed and 1 in kernel:
        padding = 0
    view = Unfolding(4, 6, kernel, groups, transposed, layout)
    rank = 3
    lead = (groups,) if groups > 1 else ()
    U = torch.randn(*lead, view.shape[0], rank, dtype=torch.float64)
    Vh = torch.randn(*lead, rank, view.shape[1], dtype=torch.float64)
    weight = view.kernel(U @ Vh)
    x = torch.randn(2, 6, *([7, 6, 5][: len(kernel)]), dtype=torch.float64)
    with FlopCounterMode(display=False) as thin:
        got = run_pair(view, U, Vh, x, stride, padding)
    with FlopCounterMode(display=False) as full:
        want = run_dense(view, weight, x, stride, padding)
    factors = (U.norm() * Vh.norm()) * torch.eye(1)
    bound = tolerance.sweep_norm(factors, x, weight[0, 0].numel())
    assert (
        tolerance.distance(got, want) <= tolerance.product(rank + sum(view.shape), x.dtype) * bound
    )
    dense, per_rank = view.macs(tuple(x.shape[2:]), tuple(want.shape[2:]))
    assert full.get_total_flops() // 2 == 2 * dense
    assert thin.get_total_flops() // 2 == 2 * rank * per_rank
    assert view.weights() == (weight.numel(), (U.numel() + Vh.numel()) // rank)


def test_one_tap_on_a_side_is_no_spatial_split():
    """It would be a 1×1 convolution with its stride torn apart, which crashes CPU kernels."""
    assert Unfolding(4, 6).possible() == ["channel"]
    assert Unfolding(4, 6, (1, 1)).possible() == ["channel"]
    assert Unfolding(4, 6, (3,)).possible() == ["channel", "channel_reversed"]
    assert Unfolding(4, 6, (1, 3)).possible() == ["channel", "channel_reversed"]
    assert Unfolding(4, 6, (3, 1, 1)).possible() == ["channel", "channel_reversed"]
    assert Unfolding(4, 6, (3, 1, 3)).possible() == list(LAYOUTS)
    with pytest.raises(LorankError, match=r"more than one tap .* found kernel size \(1, 1\)"):
        Unfolding(4, 6, (1, 1), layout="spatial")


def test_unknown_layout():
    with pytest.raises(LorankError, match="unknown layout 'spacial': did you mean 'spatial'"):
        Unfolding(4, 6, (3, 3), layout="spacial")
