"""Class-wise penalties as modules: on a tapped layer, in a loop, with kept centres."""

import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lorank.errors import LorankError
from lorank.nn import Tap
from lorank.penalties import CentreLoss, ClassInvariance, class_invariance


def network(width=12):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    )


def data(rows=60):
    g = torch.Generator().manual_seed(1)
    y = torch.arange(rows) % 3
    return torch.randn(rows, 8, generator=g) + 2 * F.one_hot(y, 8), y


def trained(term, steps=100):
    model = network()
    x, y = data()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with Tap(model, "3") as tap:
        for _ in range(steps):
            loss = F.cross_entropy(model(x), y)
            loss = loss if term is None else loss + term(tap.value, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model(x)
        return model, tap.value.detach(), y


def test_the_module_is_the_function():
    x, y = data()
    for normalise in (None, "l2"):
        module = ClassInvariance(0.5, "centre", reduce="mean", normalise=normalise)
        want = class_invariance(x, y, "centre", reduce="mean", normalise=normalise)
        assert torch.equal(module(x, y), 0.5 * want)
    assert list(module.parameters()) == []
    assert module.state_dict() == {}
    assert repr(module) == "ClassInvariance(0.5, 'centre', reduce='mean', normalise='l2')"


def test_only_layers_below_the_tap_get_a_gradient():
    model, (x, y) = network(), data()
    with Tap(model, "1") as tap:
        model(x)
        ClassInvariance(1.0)(tap.value, y).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"0.weight", "0.bias"}


def share_within(h, y):
    """About 1 where classes mean nothing, 0 where each is a point."""
    return float(class_invariance(h, y, normalise="spread"))


@pytest.fixture(scope="module")
def plain():
    return trained(None)


@pytest.mark.parametrize("kind", ["pairs", "centre", "covariance"])
def test_training_makes_classes_tighter(kind, plain):
    _, h, y = trained(ClassInvariance(1.0, kind))
    assert share_within(h, y) < 0.3 * share_within(*plain[1:])


def test_shrinking_is_not_what_makes_classes_tighter(plain):
    _, h, y = trained(ClassInvariance(1.0, normalise="spread"))
    assert share_within(h, y) < 0.3 * share_within(*plain[1:])


def test_contrast_makes_the_angles_of_a_class_smaller(plain):
    _, h, y = trained(ClassInvariance(1.0, "contrastive"))
    before = class_invariance(*plain[1:], normalise="l2")
    assert float(class_invariance(h, y, normalise="l2")) < 0.5 * float(before)


def test_a_control_does_not_make_classes_tighter_as_much():
    """Negative control: shrinking all is not bringing classes together."""
    pairs, everything = (
        share_within(*trained(ClassInvariance(1.0, kind))[1:]) for kind in ("pairs", "all_pairs")
    )
    assert pairs < 0.2 * everything


def test_kept_centres_by_hand():
    loss = CentreLoss(3, 2, weight=2.0, rate=0.5)
    h = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 4.0], [9.0, 9.0]], requires_grad=True)
    y = torch.tensor([0, 0, 2, -100])
    value = loss(h, y)
    # The first centres are the means (2, 0) and (0, 4).
    assert float(value.detach()) == pytest.approx(2.0 * (1 + 1 + 0) / (2 * 3))
    value.backward()
    want = 2.0 / 3 * torch.tensor([[-1.0, 0], [1, 0], [0, 0], [0, 0]])
    torch.testing.assert_close(h.grad, want)
    assert loss.seen.tolist() == [True, False, True]
    assert loss.centres.tolist() == [[2, 0], [0, 0], [0, 4]]
    again = loss(torch.tensor([[4.0, 0.0]]), torch.tensor([0]))
    assert float(again) == 2.0 * 4 / 2
    # c + α·Σ(h − c)/(1 + n) = 2 + 0.5·2/2
    assert loss.centres[0].tolist() == [2.5, 0]


def test_a_class_with_one_sample_counts_with_kept_centres():
    loss = CentreLoss(2, 1, weight=1.0)
    loss(torch.tensor([[1.0]]), torch.tensor([1]))
    h = torch.tensor([[3.0]], requires_grad=True)
    loss(h, torch.tensor([1])).backward()
    assert float(h.grad) == 2.0


def test_kept_centres_stay_in_evaluation_and_go_into_the_state():
    x, y = data()
    loss = CentreLoss(3, 8)
    loss(x, y)
    kept = loss.centres.clone()
    loss.eval()(x + 1, y)
    assert torch.equal(loss.centres, kept)
    loss.train()(x + 1, y)
    assert not torch.equal(loss.centres, kept)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    other = CentreLoss(3, 8)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x, y), loss(x, y))
    assert list(loss.parameters()) == []


def test_kept_centres_learn(plain):
    _, h, y = trained(CentreLoss(3, 12, weight=0.3))
    assert share_within(h, y) < 0.5 * share_within(*plain[1:])


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float64])
def test_kept_centres_in_other_precisions(low):
    x, y = data()
    value = CentreLoss(3, 8, 1.0)(x.to(low), y)
    want = CentreLoss(3, 8, 1.0)(x, y)
    assert value.dtype == (torch.float64 if low == torch.float64 else torch.float32)
    torch.testing.assert_close(value.float(), want, rtol=1e-2, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(CentreLoss(3, 8, 1.0)(x, y), want)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_kept_centres_that_were_halved_still_count(low):
    """A count in bfloat16 stops at 256, and the mean of more samples would be too large."""
    h, y = torch.ones(900, 2), torch.zeros(900, dtype=torch.uint8)
    loss = CentreLoss(300, 2, 1.0).to(low)
    assert float(loss(h, y)) == 0
    assert loss.centres[0].tolist() == [1, 1]
    assert loss.centres.dtype == low


def test_an_overflow_does_not_stay_in_kept_centres():
    """A gradient scaler skips the step, and the next one must find centres that are numbers."""
    x, y = data()
    loss = CentreLoss(3, 8, 1.0)
    h = x.half()
    h[0, 0] = torch.inf
    assert not torch.isfinite(loss(h, y))
    assert loss.seen.tolist() == [False, True, True]
    assert torch.isfinite(loss.centres).all()
    loss(x, y)
    kept = loss.centres.clone()
    loss(h, y)
    assert torch.equal(loss.centres[0], kept[0])
    assert torch.isfinite(loss(x, y))


def test_no_labels_leave_kept_centres_alone():
    x, _ = data()
    loss = CentreLoss(3, 8)
    value = loss(x.requires_grad_(), torch.full((60,), -100))
    value.backward()
    assert float(value.detach()) == 0
    assert not x.grad.any()
    assert not loss.seen.any()
    assert not loss.centres.any()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "0.1"])
def test_a_wrong_weight(weight):
    for make in (lambda: ClassInvariance(weight), lambda: CentreLoss(2, 2, weight)):
        with pytest.raises(LorankError, match="weight must be finite and not negative"):
            make()


def test_wrong_centres():
    for settings, says in (
        ((0, 2), "must be positive whole numbers"),
        ((2.5, 2), "found 2.5, 2"),
        ((True, 2), "found True, 2"),
        ((2, 2, 0.1, 1.5), "rate must lie"),
        ((2, 2, 0.1, "half"), "rate must lie"),
    ):
        with pytest.raises(LorankError, match=says):
            CentreLoss(*settings)
    loss = CentreLoss(3, 8)
    x, y = data()
    with pytest.raises(LorankError, match="the centres have 8 units, found 7"):
        loss(x[:, :7], y)
    for label in (3, -1):
        with pytest.raises(LorankError, match=f"labels must lie in 0..2 or be -100, found {label}"):
            loss(x, torch.where(y == 2, label, y))
    with pytest.raises(LorankError, match="activations are, cpu, found meta: move the loss there"):
        CentreLoss(3, 8).to("meta")(x, y)
    x[4, 0] = float("nan")
    with pytest.raises(LorankError, match="1 of 60 samples hold NaN or Inf"):
        loss(x, y)
    assert not loss.seen.any(), "what was refused moves nothing"
