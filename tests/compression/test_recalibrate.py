"""BatchNorm statistics, estimated anew."""

import pytest
import torch
from torch import nn

import lorank
from compression.networks import small


def network():
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4, momentum=0.3)
    )


def test_the_average_over_batches_by_hand():
    model = network().double().eval()
    model[3].train()
    model[1].weight.requires_grad_(False)
    batches = [torch.randn(n, 3, dtype=torch.float64) for n in (4, 4, 9)]
    assert lorank.recalibrate(model, batches) is model
    maps = [model[0](x).detach() for x in batches]
    mean = torch.stack([m.mean(0) for m in maps]).mean(0)
    var = torch.stack([m.var(0) for m in maps]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, var)
    assert model[1].num_batches_tracked == 3
    assert (model[1].momentum, model[3].momentum) == (0.1, 0.3)
    assert not model[0].training and not model[1].training and model[3].training
    assert not model[1].weight.requires_grad and all(p.grad is None for p in model.parameters())


def test_inputs_may_come_with_labels_and_from_a_generator():
    batches = [torch.randn(5, 3) for _ in range(2)]
    a = lorank.recalibrate(network(), batches)
    torch.manual_seed(0)
    b = lorank.recalibrate(network(), ((x, torch.zeros(5)) for x in batches))
    torch.manual_seed(0)
    c = lorank.recalibrate(network(), batches)
    assert torch.equal(b[1].running_mean, c[1].running_mean)
    assert a[1].num_batches_tracked == b[1].num_batches_tracked == 2


def test_fold_recalibrates_the_new_model_alone():
    model = network()
    low = lorank.decompose(model, {"0": 1})
    before = low[1].running_mean.clone()
    batches = [torch.randn(6, 3) + 5 for _ in range(3)]
    folded = lorank.fold(low, batches=batches)
    assert torch.equal(low[1].running_mean, before)
    want = lorank.recalibrate(lorank.fold(low), batches)
    assert torch.equal(folded[1].running_mean, want[1].running_mean)
    assert not torch.equal(folded[1].running_mean, before)


def test_no_batch_would_lose_the_statistics():
    model = network()
    model(torch.randn(5, 3))
    before = model[1].running_mean.clone()
    with pytest.raises(lorank.LorankError, match="at least one batch, found none"):
        lorank.recalibrate(model, [])
    assert torch.equal(model[1].running_mean, before)


@pytest.mark.parametrize("bad", [torch.randn(5, 4), {"x": torch.randn(5, 3)}, torch.randn(1, 3)])
def test_a_batch_that_fails_leaves_everything_as_it_was(bad):
    model = network().eval()
    model.train()(torch.randn(5, 3))
    model.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(lorank.LorankError, match=r"must run on every batch \(the first is"):
        lorank.recalibrate(model, [torch.randn(5, 3), bad])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model[1].momentum == 0.1 and not any(m.training for m in model.modules())


def test_a_network_without_batchnorm_is_left_as_it_is():
    model = small(3, 4, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    lorank.recalibrate(model, [torch.randn(2, 3)])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
