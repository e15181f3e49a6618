"""The symbol, its frequencies, and what rewrites a kernel."""

import math

import pytest
import torch
import torch.nn.functional as F
from conv_cases import kernel

import tolerance
from lorank import LorankError
from lorank.linalg.convolution.symbol import by_group, dilated, frequency_grid, polyphase, symbol

D = torch.float64


@pytest.mark.parametrize("size", [(1,), (5,), (6,), (4, 4), (5, 3), (4, 7), (3, 4, 2), (1, 6)])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_half_a_grid_stands_for_all_of_it(size, shift):
    """Each pair {a, −a} occurs once, and counts twice unless it is one frequency."""
    grid = frequency_grid(size, shift)
    steps = (grid.angles * torch.tensor(size) / (2 * math.pi) - shift).round().long()
    mirrored = (-steps - round(2 * shift)) % torch.tensor(size)
    seen = {tuple(s) for s in steps.tolist()}
    both = seen | {tuple(s) for s in mirrored.tolist()}
    assert len(both) == math.prod(size) == int(grid.multiplicity.sum())
    alone = (steps == mirrored).all(-1)
    assert torch.equal(grid.multiplicity, torch.where(alone, 1, 2))
    assert len(seen) == len(steps)


@pytest.mark.parametrize("taps", [(3,), (2,), (3, 3), (4, 3), (1, 5), (2, 3, 2)])
def test_the_symbol_is_the_fourier_transform(taps):
    """``fftn`` of the kernel at the same frequencies, up to the phase of the tap origin."""
    K = kernel((3, 2, *taps))
    size = [max(4, t) for t in taps]
    axes = tuple(range(2, K.ndim))
    transform = torch.fft.fftn(K, s=size, dim=axes).flatten(2).permute(2, 0, 1)
    index = torch.cartesian_prod(*(torch.arange(n) for n in size)).reshape(-1, len(size))
    angles = 2 * math.pi * index.double() / torch.tensor(size)
    origin = torch.tensor([(t - 1) / 2 for t in taps], dtype=D)
    phase = torch.polar(torch.ones(len(angles), dtype=D), -angles @ origin)
    # fftn has e^{−ia} where the symbol has e^{ia}: the conjugate, the kernel being real.
    want = transform.conj() * phase[:, None, None]
    bound = tolerance.product(K.numel(), D) * float(K.norm()) * 10
    assert (symbol(K, angles) - want).abs().max() <= bound


def test_a_plane_wave_is_multiplied_by_the_symbol():
    K, a = kernel((3, 2, 3, 3)), torch.tensor([0.7, -1.9], dtype=D)
    v = torch.tensor([1.0, -2.0], dtype=D)
    y, x = torch.meshgrid(torch.arange(7.0, dtype=D), torch.arange(7.0, dtype=D), indexing="ij")
    wave = torch.polar(torch.ones_like(x), a[0] * y + a[1] * x)
    image = v[:, None, None] * wave
    out = torch.complex(*(F.conv2d(part[None], K) for part in (image.real, image.imag)))[0]
    want = (symbol(K, a) @ v.to(torch.complex128))[:, None, None] * wave[1:-1, 1:-1]
    assert (out - want).abs().max() <= tolerance.product(18, D) * float(K.norm()) * 3


def test_opposite_frequencies_are_conjugate_and_others_are_not():
    K, a = kernel((3, 2, 2, 3)), torch.tensor([[0.3, 1.1], [2.0, -0.4]], dtype=D)
    assert torch.equal(symbol(K, -a), symbol(K, a).conj())
    assert (symbol(K, -a) - symbol(K, a)).abs().max() > 0.1


def test_batches_points_and_precision():
    K = kernel((5, 3, 2, 3, 3))
    angles = torch.rand(4, 6, 2, dtype=D)
    batched = symbol(K, angles)
    assert batched.shape == (5, 4, 6, 3, 2) and batched.dtype == torch.complex128
    for k, F_k in zip(K, batched, strict=True):
        assert (symbol(k, angles) - F_k).abs().max() <= 1e-14
    assert symbol(K.float(), angles).dtype == torch.complex64
    assert symbol(K.bfloat16(), angles).dtype == torch.complex64


def test_the_gradient_is_that_of_the_sum():
    K = kernel((2, 2, 3)).requires_grad_()
    angles = torch.tensor([[0.4], [2.5]], dtype=D)
    assert torch.autograd.gradcheck(lambda w: torch.view_as_real(symbol(w, angles)), (K,))


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 3), (4, 1)])
def test_phases_as_channels(stride):
    K = kernel((3, 2, 3, 4))
    x = torch.randn(1, 2, 24, 24, dtype=D)
    want = F.conv2d(x, K, stride=stride)
    s, t = stride
    phases = torch.stack([x[:, :, a::s, b::t] for a in range(s) for b in range(t)], 2).flatten(1, 2)
    got = F.conv2d(phases, polyphase(K, stride))[..., : want.shape[2], : want.shape[3]]
    assert (got - want).abs().max() <= tolerance.product(24, D) * float(K.norm() * x.norm())
    assert torch.equal(polyphase(K[None], stride)[0], polyphase(K, stride))


def test_a_dilated_kernel_has_the_symbol_at_multiples():
    K, a = kernel((3, 2, 3, 2)), torch.rand(5, 2, dtype=D)
    wide = symbol(dilated(K, (2, 3)), a)
    assert (wide - symbol(K, a * torch.tensor([2, 3]))).abs().max() <= 1e-14


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: frequency_grid((0, 3)), r"at least 1 along each axis, found \(0, 3\)"),
        (lambda: frequency_grid(()), "at least 1 along each axis"),
        (lambda: frequency_grid((3,), 0.3), "shifted by 0 or 0.5 of a step, found 0.3"),
        (lambda: symbol(torch.ones(2, 2, 3), torch.ones(1, 2)), r"a kernel with 2 axes is"),
        (lambda: symbol(torch.ones(1, 1, 3) + 0j, torch.ones(1, 1)), "found torch.complex64"),
        (lambda: polyphase(torch.ones(1, 1, 3), (0,)), "a stride is at least 1"),
        (lambda: dilated(torch.ones(1, 1, 3), (0,)), "a dilation is at least 1"),
        (lambda: by_group(torch.ones(4, 1, 3), 3), "groups must divide"),
    ],
)
def test_what_is_refused(call, sentence):
    with pytest.raises(LorankError, match=sentence):
        call()
