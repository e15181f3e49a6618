"""Patches times the kernel are the layer, at each position."""

import math

import pytest
import torch
from torch import nn

from lorank import decompose
from lorank.compression.patches import patches
from nn.layer_kinds import KINDS
from tolerance import distance, product, sweep_norm

PATCHED = [name for name, kind in KINDS.items() if not (kind.table or kind.quaternion)]


def drawn(layer, view, x, positions=None, seed=0):
    return patches(layer, view, x, positions, torch.Generator().manual_seed(seed))


def by_patches(layer, view, x, like):
    """What a layer answers, with the map of ``like``."""
    kernel = layer.weight.detach().unflatten(0, (view.groups, -1))
    kernel = kernel.transpose(1, 2) if view.transposed else kernel
    answers = drawn(layer, view, x) @ kernel.flatten(2).mT  # (groups, samples · positions, out)
    if not view.kernel_size:
        return answers[0].reshape(like.shape)
    batched = like if like.ndim == len(view.kernel_size) + 2 else like.unsqueeze(0)
    samples, _, *size = batched.shape
    rows = answers.permute(1, 0, 2).reshape(samples, math.prod(size), -1)
    return rows.mT.reshape(like.shape)


def dense(layer, x):
    """The layer's answer without its bias."""
    with torch.no_grad():
        if layer.bias is not None:
            layer.bias.zero_()
        return layer(x)


@pytest.mark.parametrize("name", PATCHED)
def test_patches_times_the_kernel_are_the_layer(name):
    kind = KINDS[name]
    layer, x, view = kind.layer(), kind.x(), kind.view("channel")
    answer = dense(layer, x)
    rows = drawn(layer, view, x)
    assert rows.shape[0] == view.groups and rows.shape[2] == view.patch_size
    bound = product(view.patch_size, x.dtype) * sweep_norm(
        layer.weight, x, math.prod(view.kernel_size), 5**3 if "conv" in name else 1
    )
    assert distance(by_patches(layer, view, x, answer), answer) <= bound
    if view.patch_size > 1:  # negative control: another order of a patch's entries
        turned = rows.flip(-1)
        assert distance(turned, rows) > 1e-3 * float(rows.norm())


@pytest.mark.parametrize("name", PATCHED)
def test_a_layer_in_svd_form_reads_the_same(name):
    kind = KINDS[name]
    layer, x = kind.layer(), kind.x()
    want = drawn(layer, kind.view("channel"), x)
    for layout in kind.layouts:
        low = decompose(nn.Sequential(layer), layout=layout)[0]
        assert torch.equal(drawn(low, low.view, x), want)


@pytest.mark.parametrize("name", ["conv2d stride", "conv1d groups", "transposed2d groups"])
def test_drawn_positions_are_some_of_all(name):
    kind = KINDS[name]
    layer, x, view = kind.layer(), kind.x(batch=3), kind.view("channel")
    every = drawn(layer, view, x).unflatten(1, (3, -1))
    some = drawn(layer, view, x, 4).unflatten(1, (3, -1))
    assert some.shape == (view.groups, 3, 4, view.patch_size)
    # the same positions in each sample, each one once, in all groups
    same = [
        [i for i in range(every.shape[2]) if torch.equal(every[:, :, i], some[:, :, j])]
        for j in range(4)
    ]
    assert all(len(found) == 1 for found in same)
    assert len({found[0] for found in same}) == 4
    assert torch.equal(drawn(layer, view, x, 4), some.flatten(1, 2))
    assert not torch.equal(drawn(layer, view, x, 4, seed=1), some.flatten(1, 2))
    assert torch.equal(drawn(layer, view, x, 10**6), every.flatten(1, 2))


def test_rows_of_a_sequence_are_drawn_and_rows_of_a_batch_kept():
    layer, view = nn.Linear(3, 2), KINDS["linear"].view("channel")
    x = torch.randn(5, 4, 6, 3)
    some = drawn(layer, view, x, 2)
    every = x.flatten(1, 2)
    assert some.shape == (1, 10, 3)
    where = [i for i in range(24) if bool((every[:, i] == some[0, 0::2]).all())]
    assert len(where) == 1
    assert torch.equal(drawn(layer, view, x, 24), x.reshape(1, -1, 3))
    assert torch.equal(drawn(layer, view, x[:, 0, 0], 2), x[None, :, 0, 0])


def test_a_draw_does_not_depend_on_the_values():
    """Two networks of one shape are compared at the same positions."""
    kind = KINDS["conv2d"]
    layer, view = kind.layer(), kind.view("channel")
    x = kind.x()
    assert torch.equal(drawn(layer, view, 2 * x, 3), 2 * drawn(layer, view, x, 3))
