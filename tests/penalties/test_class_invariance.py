"""Class-wise penalties against explicit loops over pairs, in float64, with their gradients."""

import itertools
import math

import pytest
import torch

from lorank.errors import LorankError
from lorank.penalties import INVARIANCE, class_invariance
from lorank.penalties.invariance import CLASS_FREE, NORMALISE
from tolerance import product

BY_CLASS = [kind for kind in INVARIANCE if kind not in CLASS_FREE]
every_kind = pytest.mark.parametrize("kind", INVARIANCE)
every_class_kind = pytest.mark.parametrize("kind", BY_CLASS)
every_normalise = pytest.mark.parametrize("normalise", [None, *NORMALISE])

LABELS = torch.tensor([4, 0, 4, 9, 0, 4, -100, 7, 0, -100])
"""Three of one class, three of another, two alone in theirs, two without a label."""


def batch(rows=10, units=6, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, units, generator=g, dtype=dtype)


def pairs_of(y):
    """All unordered pairs of one class, of samples with a label."""
    couples = itertools.combinations(range(len(y)), 2)
    return [(i, j) for i, j in couples if y[i] == y[j] and y[i] != -100]


def by_loops(h, y, kind, temperature=0.1):
    """The definitions, written out."""
    if kind == "norm":
        return sum(row.square().sum() for row in h) / len(h)
    if kind == "all_pairs":
        y = torch.zeros(len(h), dtype=torch.long)
    if kind in ("pairs", "all_pairs"):
        found = pairs_of(y.tolist())
        return sum((h[i] - h[j]).square().sum() for i, j in found) / len(found)
    several = [c for c in y.unique() if c != -100 and int((y == c).sum()) > 1]
    members = [h[y == c] for c in several]
    away = torch.cat([m - m.mean(0) for m in members])
    if kind == "centre":
        return away.square().sum() / (2 * len(away))
    if kind == "covariance":
        return (away.T @ away / (len(away) - len(several))).square().sum()
    z = h / h.norm(dim=1, keepdim=True)
    return supervised_contrastive(z, y, temperature)


def supervised_contrastive(z, y, temperature):
    labelled = [i for i in range(len(y)) if y[i] != -100]
    terms = []
    for i in labelled:
        partners = [p for p in labelled if p != i and y[p] == y[i]]
        if not partners:
            continue
        total = sum(torch.exp(z[i] @ z[a] / temperature) for a in labelled if a != i)
        odds = [torch.log(torch.exp(z[i] @ z[p] / temperature) / total) for p in partners]
        terms.append(-sum(odds) / len(partners))
    return sum(terms) / len(terms)


@every_kind
@pytest.mark.parametrize("seed", range(3))
def test_closed_forms_are_the_loops(kind, seed):
    h = batch(seed=seed)
    got, want = class_invariance(h, LABELS, kind), by_loops(h, LABELS, kind)
    torch.testing.assert_close(got, want, rtol=product(h.numel(), h.dtype), atol=0)


@every_kind
def test_gradients_are_those_of_the_loops(kind):
    h = batch().requires_grad_()
    got = torch.autograd.grad(class_invariance(h, LABELS, kind), h)[0]
    want = torch.autograd.grad(by_loops(h, LABELS, kind), h)[0]
    scale = float(want.abs().max())
    torch.testing.assert_close(got, want, rtol=0, atol=product(h.numel(), h.dtype) * scale)


@every_kind
@every_normalise
def test_gradient_by_finite_differences(kind, normalise):
    h = batch(6, 3).requires_grad_()
    y = torch.tensor([1, 0, 1, 5, 0, -100])

    def value(h):
        return class_invariance(h, y, kind, normalise=normalise)

    assert torch.autograd.gradcheck(value, h)
    assert torch.autograd.gradgradcheck(value, h, fast_mode=True)


def test_pairs_by_hand():
    h = torch.tensor([[0.0], [3.0], [10.0], [11.0], [50.0]])
    y = torch.tensor([0, 0, 1, 1, 2])
    assert float(class_invariance(h, y)) == (9 + 1) / 2
    assert float(class_invariance(h, y, "centre")) == (2 * 2.25 + 2 * 0.25) / (2 * 4)
    assert float(class_invariance(h, y, "covariance")) == ((4.5 + 0.5) / 2) ** 2


def test_a_wrong_label_is_seen():
    """Negative control of the oracle: other classes give another value."""
    h, other = batch(), LABELS.clone()
    other[1] = 4
    for kind in BY_CLASS:
        a, b = class_invariance(h, LABELS, kind), class_invariance(h, other, kind)
        assert abs(float(a - b)) > 1e-3 * float(a)
    for kind in CLASS_FREE:
        assert class_invariance(h, LABELS, kind) == class_invariance(h, other, kind)


def test_controls_need_no_labels():
    h = batch()
    for kind in CLASS_FREE:
        assert class_invariance(h, None, kind) == class_invariance(h, LABELS, kind)


def test_all_pairs_is_pairs_of_one_class():
    h = batch()
    one = torch.full((10,), 3)
    torch.testing.assert_close(class_invariance(h, None, "all_pairs"), class_invariance(h, one))


@every_class_kind
@every_normalise
@pytest.mark.parametrize(
    "labels", [[1, 2, 3, 4], [-100] * 4, [5, -100, -100, -100], [-100, 1, 2, -100]]
)
def test_nothing_to_compare_is_exactly_zero(kind, normalise, labels):
    h = batch(4).requires_grad_()
    value = class_invariance(h, torch.tensor(labels), kind, normalise=normalise)
    value.backward()
    assert float(value.detach()) == 0.0
    assert torch.equal(h.grad, torch.zeros_like(h))


@every_kind
@every_normalise
@pytest.mark.parametrize(("rows", "value"), [(1, 0.0), (4, 0.0), (1, 2.0), (4, 2.0), (13, 0.3)])
def test_equal_samples_are_safe(kind, normalise, rows, value):
    """The mean of 13 equal numbers is not that number: rounding must not be taken for spread."""
    h = torch.full((rows, 3), value, requires_grad=True)
    found = class_invariance(h, torch.zeros(rows, dtype=torch.long), kind, normalise=normalise)
    found.backward()
    assert torch.isfinite(found)
    assert h.grad.abs().max() < 10  # false for NaN
    if kind in ("pairs", "centre", "covariance", "all_pairs"):
        assert float(found.detach()) == pytest.approx(0, abs=1e-12)


@every_kind
@pytest.mark.parametrize("normalise", ["l2", "spread"])
def test_a_sample_of_zeros_has_a_tame_gradient(kind, normalise):
    """It has no direction, and must not divide by a length of nearly 0."""
    h = batch(dtype=torch.float32)
    h[0] = 0
    class_invariance(h.requires_grad_(), LABELS, kind, normalise=normalise).backward()
    assert h.grad.abs().max() < 1e3
    if normalise == "l2":
        assert not h.grad[0].any()


@every_class_kind
@every_normalise
def test_samples_alone_or_without_a_label(kind, normalise):
    """No label: neither value nor gradient. Alone in its class: no part in distances."""
    h = batch()
    filled = h.clone()
    filled[LABELS == -100] = torch.nan
    for made in (h, filled):
        made.requires_grad_()
    values = [class_invariance(x, LABELS, kind, normalise=normalise) for x in (h, filled)]
    gradients = [torch.autograd.grad(v, x)[0] for v, x in zip(values, (h, filled), strict=True)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    assert (gradients[1][LABELS == -100] == 0).all()
    if normalise in (None, "l2") and kind != "contrastive":
        alone = (LABELS == 9) | (LABELS == 7)
        assert (gradients[1][alone] == 0).all()
    assert (gradients[1][LABELS == 4] != 0).any()


@every_kind
@every_normalise
def test_order_and_names_of_classes_mean_nothing(kind, normalise):
    h = batch()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    renamed = torch.where(LABELS == 4, -7, torch.where(LABELS == 0, 10**12, LABELS))
    value = class_invariance(h, LABELS, kind, normalise=normalise)
    torch.testing.assert_close(
        class_invariance(h[order], LABELS[order], kind, normalise=normalise), value
    )
    torch.testing.assert_close(class_invariance(h, renamed, kind, normalise=normalise), value)


@pytest.mark.parametrize("kind", ["pairs", "centre", "covariance", "all_pairs"])
def test_shifts_and_rotations_mean_nothing(kind):
    h = batch()
    Q = torch.linalg.qr(batch(6, seed=5))[0]
    value = class_invariance(h, LABELS, kind)
    torch.testing.assert_close(class_invariance(h @ Q + 3.0, LABELS, kind), value)


def test_a_shift_means_something_to_the_norm():
    """Negative control of the test above."""
    h = batch()
    moved = class_invariance(h + 3.0, None, "norm")
    assert float(moved) > 2 * float(class_invariance(h, None, "norm"))


@pytest.mark.parametrize("normalise", ["batch", "spread"])
@every_class_kind
@pytest.mark.parametrize("scale", [1e-305, 1e-6, 0.3, 1e5, 1e305])
def test_normalised_penalties_cannot_be_met_by_shrinking(kind, normalise, scale):
    h = batch()
    value = class_invariance(h, LABELS, kind, normalise=normalise)
    smaller = class_invariance(scale * h, LABELS, kind, normalise=normalise)
    torch.testing.assert_close(smaller, value, rtol=1e-9, atol=0)
    if kind == "pairs" and 1e-100 < scale < 1e100:
        plain = class_invariance(h, LABELS), class_invariance(scale * h, LABELS)
        torch.testing.assert_close(plain[1], scale**2 * plain[0], rtol=1e-9, atol=0)


def test_what_normalising_means():
    h, y = batch(200, 8), torch.arange(200) % 10
    share = class_invariance(h, y, normalise="spread")
    assert float(share) == pytest.approx(1, abs=0.1)
    points = batch(10, 8)[y]
    assert float(class_invariance(points, y, normalise="spread")) < 1e-20
    assert float(class_invariance(h, None, "all_pairs", normalise="spread")) == pytest.approx(1)
    assert float(class_invariance(h, None, "norm", normalise="l2")) == pytest.approx(1)
    assert float(class_invariance(h, None, "norm", normalise="batch")) == pytest.approx(8)


def test_covariance_and_centre_are_sums_of_singular_values():
    h, y = batch(40, 6), torch.arange(40) % 4
    means = torch.stack([h[y == c].mean(0) for c in range(4)])
    s = torch.linalg.svdvals(h - means[y])
    torch.testing.assert_close(class_invariance(h, y, "centre"), s.square().sum() / 80)
    torch.testing.assert_close(class_invariance(h, y, "covariance"), s.pow(4).sum() / 36**2)


@pytest.mark.parametrize("rows", [4, 30])
def test_covariance_takes_the_smaller_side(rows):
    h, y = batch(rows, 9), torch.arange(rows) % 2
    torch.testing.assert_close(
        class_invariance(h, y, "covariance"), by_loops(h, y, "covariance"), rtol=1e-12, atol=0
    )


@every_kind
def test_reduce(kind):
    h = batch(units=6)
    units = {"covariance": 36, "contrastive": 1}.get(kind, 6)
    torch.testing.assert_close(
        class_invariance(h, LABELS, kind, reduce="mean") * units, class_invariance(h, LABELS, kind)
    )


def test_no_cancellation_far_from_the_origin():
    """The difference of two sums of squares would be off by 100 % here."""
    h = batch(dtype=torch.float32, units=4) * 1e-2
    far = h + 256.0  # a power of two: the shift itself rounds at 2⁻¹⁶ at most
    shifted = (far - 256.0).double()
    exact = by_loops(shifted, LABELS, "pairs")
    value = class_invariance(far, LABELS)
    assert float(value) == pytest.approx(float(exact), rel=0.02)
    n, sums = 3, far[LABELS == 4]
    naive = n * sums.square().sum() - sums.sum(0).square().sum()
    wanted = n * (shifted[LABELS == 4] - shifted[LABELS == 4].mean(0)).square().sum()
    assert abs(float(naive - wanted)) > 0.5 * float(wanted)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.uint16, torch.int32])
def test_labels_of_other_whole_numbers(dtype):
    h, y = batch(), LABELS.clamp(min=0)
    torch.testing.assert_close(class_invariance(h, y.to(dtype)), class_invariance(h, y))


def test_no_label_is_a_number_that_unsigned_labels_do_not_have():
    """-100 wraps around to 156 in uint8, which is a class like others there."""
    h, y = batch(), LABELS.clamp(min=0)
    named = torch.where(y == 4, 156, y).to(torch.uint8)
    torch.testing.assert_close(class_invariance(h, named), class_invariance(h, y))


def test_maps_are_flattened():
    h = batch(10, 24)
    torch.testing.assert_close(
        class_invariance(h.view(10, 2, 3, 4), LABELS), class_invariance(h, LABELS)
    )
    assert float(class_invariance(h[:, 0], LABELS)) > 0


@every_kind
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(kind, low):
    h = batch().to(low).requires_grad_()
    value = class_invariance(h, LABELS, kind)
    assert value.dtype == torch.float32
    exact = by_loops(h.detach().double(), LABELS, kind)
    assert float(value.detach()) == pytest.approx(float(exact), rel=1e-4)
    value.backward()
    assert h.grad.dtype == low


@every_kind
@every_normalise
def test_autocast_changes_nothing(kind, normalise):
    h = batch(dtype=torch.float32)
    plain = class_invariance(h, LABELS, kind, normalise=normalise)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = class_invariance(h, LABELS, kind, normalise=normalise)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


@every_kind
def test_a_step_against_the_gradient_helps(kind):
    h = batch().requires_grad_()
    before = class_invariance(h, LABELS, kind)
    step = 1e-4 * torch.autograd.grad(before, h)[0]
    with torch.no_grad():
        assert class_invariance(h - step, LABELS, kind) < before
        assert class_invariance(h + step, LABELS, kind) > before


def test_cost_grows_with_the_batch_and_not_with_its_pairs():
    """No intermediate has more than a few times B·d entries."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return out

    h, y = torch.ones(500, 3), torch.arange(500) % 2
    for kind, limit in (("pairs", 1500), ("centre", 1500), ("covariance", 1500)):
        with Largest() as seen:
            class_invariance(h, y, kind)
        assert seen.size <= limit
    with Largest() as seen:  # negative control: this one compares all with all
        class_invariance(h, y, "contrastive")
    assert seen.size >= 500**2


@pytest.mark.slow
@every_kind
@every_normalise
def test_compiles_as_one_graph(kind, normalise):
    """No number of classes is asked for on the way, which would break the graph and wait."""

    def value(h, y):
        return class_invariance(h, y, kind, normalise=normalise)

    h = batch()
    torch.compiler.reset()
    graph = torch.compile(value, backend="eager", fullgraph=True)
    torch.testing.assert_close(graph(h, LABELS), value(h, LABELS))


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-40, float("inf"), float("nan"), "cold"])
def test_wrong_temperatures(temperature):
    with pytest.raises(LorankError, match="at least 1e-06, found"):
        class_invariance(torch.ones(2, 2), torch.zeros(2).long(), temperature=temperature)


def test_the_lowest_temperature_gives_a_number():
    h = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], requires_grad=True)
    y = torch.tensor([0, 0, 1])
    value = class_invariance(h, y, "contrastive", temperature=1e-6)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(h.grad).all()


@pytest.mark.parametrize(
    ("h", "says"),
    [
        (torch.ones(0, 5), r"floating-point \(samples, …\) with entries, found .* \(0, 5\)"),
        (torch.ones(5, 0), r"found torch.float32 \(5, 0\)"),
        (torch.tensor(1.0), r"found torch.float32 \(\)"),
        (torch.ones(5, 2, dtype=torch.long), "found torch.int64"),
        ([[1.0]], "found list"),
    ],
)
def test_wrong_activations(h, says):
    with pytest.raises(LorankError, match=says):
        class_invariance(h, torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (torch.zeros(4, dtype=torch.long), r"one label a sample \(5,\), found shape \(4,\)"),
        (torch.zeros(5, 1, dtype=torch.long), r"found shape \(5, 1\)"),
        (None, "found NoneType"),
        ([0] * 5, "found list"),
        (torch.zeros(5), "whole numbers, found torch.float32"),
        (torch.zeros(5, dtype=torch.bool), "whole numbers, found torch.bool"),
        (torch.zeros(5, dtype=torch.long, device="meta"), "activations are, cpu, found meta"),
    ],
)
@every_class_kind
def test_wrong_labels(kind, y, says):
    with pytest.raises(LorankError, match=says):
        class_invariance(torch.ones(5, 2), y, kind)


@every_kind
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_activations_that_are_not_numbers(kind, bad):
    h = batch(dtype=torch.float32)
    h[2, 1] = bad
    with pytest.raises(LorankError, match="1 of 10 samples hold NaN or Inf, the first at 2"):
        class_invariance(h, LABELS, kind)
    low = class_invariance(h.half(), LABELS, kind)
    assert not torch.isfinite(low), "a gradient scaler waits for this"


def test_wrong_names():
    h = torch.ones(10, 2)
    with pytest.raises(LorankError, match=r"unknown kind of class invariance 'pair'.*'pairs'"):
        class_invariance(h, LABELS, "pair")
    with pytest.raises(LorankError, match="unknown reduce"):
        class_invariance(h, LABELS, reduce="max")
    with pytest.raises(LorankError, match=r"unknown normalise 'L2'"):
        class_invariance(h, LABELS, normalise="L2")
    with pytest.raises(LorankError, match=r"unknown normalise \['l2'\]"):
        class_invariance(h, LABELS, normalise=["l2"])
