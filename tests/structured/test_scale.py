"""An output layer set by the statistics of labels."""

import pytest
import torch
from torch import nn

import lorank
from lorank.errors import LorankError
from lorank.structured import label_scale_, label_statistics

NAN = float("nan")


def labels(rows=400, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    mix = torch.randn(4, 6, generator=drawn).double()
    return 3 + torch.randn(rows, 4, generator=drawn).double() @ mix


def deviations(Y, count):
    return torch.linalg.eigvalsh(torch.cov(Y.mT)).flip(0).clamp(min=0).sqrt()[:count]


def test_statistics_against_the_covariance():
    Y = labels()
    found = label_statistics(Y)
    assert torch.allclose(found.mean, Y.mean(0))
    assert found.deviations.shape == (4,)  # the rank of the labels, not their number
    assert torch.allclose(found.deviations, deviations(Y, 4))
    covariance = found.directions * found.deviations**2 @ found.directions.mT
    assert torch.allclose(covariance, torch.cov(Y.mT))


@pytest.mark.parametrize("directions", ["random", "pca"])
@pytest.mark.parametrize("low", [False, True])
def test_outputs_of_a_white_code_have_the_labels_scale(directions, low):
    Y, layer = labels(), nn.Linear(8, 6).double()
    layer = lorank.decompose(layer, {"": 5}) if low else layer
    found = label_scale_(layer, Y, directions)
    code = torch.linalg.qr(torch.randn(500, 8).double()).Q
    code = (code - code.mean(0)) * 500**0.5
    with torch.no_grad():
        outputs = layer(code)
    W = layer.weight.detach()
    assert torch.allclose(W.norm(dim=0)[:4], found.deviations, rtol=1e-6)
    assert W.norm(dim=0)[4:].max() <= 1e-6 * found.deviations[0]
    assert torch.allclose(outputs.mean(0), Y.mean(0), atol=1e-5)
    assert torch.allclose(outputs.var(0).sum(), Y.var(0).sum(), rtol=0.02)
    same = torch.allclose(W @ W.mT, torch.cov(Y.mT), atol=1e-5)
    assert same is (directions == "pca")


def test_kept_directions_get_one_factor():
    Y = labels()
    for low in (False, True):
        layer = nn.Linear(8, 6).double()
        layer = lorank.decompose(layer) if low else layer
        before = layer.weight.detach().clone()
        label_scale_(layer, Y, "keep")
        after = layer.weight.detach()
        assert torch.allclose(after.norm() ** 2, Y.var(0).sum())
        assert torch.allclose(after / after.norm(), before / before.norm())


@pytest.mark.parametrize("low", [False, True])
def test_zero_weights_start_at_the_mean_and_train(low):
    Y, layer = labels(), nn.Linear(8, 6).double()
    layer = lorank.decompose(layer) if low else layer
    label_scale_(layer, Y, "zero")
    outputs = layer(torch.randn(5, 8).double())
    assert torch.allclose(outputs, Y.mean(0).expand(5, 6), atol=1e-6)
    outputs.sum().backward()
    assert (layer.S if low else layer.weight).grad.any()


def test_a_low_rank_layer_gets_orthonormal_factors_that_train():
    layer = lorank.decompose(nn.Linear(8, 6).double(), {"": 5})
    label_scale_(layer, labels(), "pca")
    assert torch.allclose(layer.U.mT @ layer.U, torch.eye(5).double(), atol=1e-9)
    assert torch.allclose(layer.Vh @ layer.Vh.mT, torch.eye(5).double())
    layer(torch.randn(3, 8).double()).sum().backward()
    assert (layer.S.grad != 0).all()  # also beyond the labels' rank


def test_rank():
    layer = nn.Linear(8, 6).double()
    found = label_scale_(layer, labels(), "pca", rank=2)
    assert len(found.deviations) == 2 and torch.linalg.matrix_rank(layer.weight) == 2
    for bad in (0, 7, 1.5, True):
        with pytest.raises(LorankError, match="rank is a whole number from 1 to 6"):
            label_scale_(layer, labels(), rank=bad)


def test_label_only_data_count_and_incomplete_ones_do_not():
    Y = labels()
    gappy = torch.cat([Y, Y[:3]])
    gappy[-3:, 2] = NAN
    one, other = nn.Linear(8, 6).double(), nn.Linear(8, 6).double()
    label_scale_(one, Y, "pca")
    label_scale_(other, gappy, "pca")
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)
    label_scale_(other, torch.cat([Y, labels(50, 1)]), "pca")
    assert not torch.equal(one.bias, other.bias)


def test_random_directions_are_the_generators():
    def drawn(seed):
        layer = nn.Linear(8, 6).double()
        label_scale_(layer, labels(), generator=torch.Generator().manual_seed(seed))
        return layer.weight.detach()

    assert torch.equal(drawn(0), drawn(0)) and not torch.equal(drawn(0), drawn(1))


@pytest.mark.parametrize(
    ("layer", "Y", "sentence"),
    [
        (nn.Sequential(nn.Linear(8, 6), nn.Tanh()), labels(), "Sequential that ends in Tanh"),
        (nn.Sigmoid(), labels(), "linear output layer, .* found Sigmoid"),
        (nn.Linear(8, 6, bias=False), labels(), "centred by its bias"),
        (nn.Linear(8, 5), labels(), r"gives 5 outputs, and labels have shape \(400, 6\)"),
        (nn.Linear(8, 6), torch.full((9, 6), NAN), "at least two .* found 0 of 9"),
        (nn.Linear(8, 6), torch.ones(9, 6), "all the same"),
        (nn.Linear(8, 6), labels()[:1], "at least two .* found 1 of 1"),
        (nn.Linear(8, 6), labels().numpy(), "are a tensor .* found ndarray"),
        (nn.Linear(8, 6).half(), labels() * 1e6, "beyond the range of a layer in torch.float16"),
        (nn.Linear(8, 6), labels() * 1e200, "beyond the range of a layer in torch.float32"),
        (lorank.fold(lorank.decompose(nn.Linear(8, 6), {"": 1})), labels(), "in SVD form.* Pair"),
        (nn.Linear(8, 6), labels().fill_(float("inf")), "found Inf in 400 of 400"),
        (nn.Linear(8, 1), torch.ones(9, 1, dtype=torch.long), "numbers"),
    ],
)
def test_bad_input(layer, Y, sentence):
    with pytest.raises(LorankError, match=sentence):
        label_scale_(layer, Y)


def test_unknown_directions_and_zeros():
    layer = nn.Linear(8, 6).double()
    with pytest.raises(LorankError, match="unknown directions 'rand': did you mean 'random'"):
        label_scale_(layer, labels(), "rand")
    nn.init.zeros_(layer.weight)
    before = layer.bias.detach().clone()
    with pytest.raises(LorankError, match="zeros keeps no directions"):
        label_scale_(layer, labels(), "keep")
    assert torch.equal(layer.bias, before), "what was refused writes nothing"


def test_the_scale_is_found_in_many_rows_and_beside_large_outputs():
    """What counts as rounding must not grow with the rows, nor with a constant output."""
    Y = 100 + torch.randn(100_000, 2)
    assert torch.allclose(label_statistics(Y).deviations, torch.ones(2), rtol=0.02)
    beside = torch.cat([1e-3 * Y[:50], torch.full((50, 1), 1e6)], 1)
    found = label_statistics(beside)
    assert torch.allclose(found.deviations, deviations(beside.double(), 2).float(), rtol=1e-3)
    assert not found.directions[2].any()


@pytest.mark.parametrize("directions", ["random", "pca", "keep", "zero"])
@pytest.mark.parametrize("low", [False, True])
def test_half_precision(directions, low):
    Y, layer = labels().float(), nn.Linear(8, 6)
    layer = (lorank.decompose(layer, {"": 2}) if low else layer).half()
    label_scale_(layer, Y, directions)
    assert torch.equal(layer.bias, Y.mean(0).half())
    kept = Y.var(0).sum() if not low else label_statistics(Y, 2).deviations.square().sum()
    wanted = 0.0 if directions == "zero" else float(kept.sqrt())
    assert layer.weight.detach().float().norm().item() == pytest.approx(wanted, rel=0.01, abs=0.1)
