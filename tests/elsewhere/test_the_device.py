"""The device refuses what a GPU refuses, and computes what the CPU computes."""

import copy

import pytest
import torch
from torch import nn

from elsewhere.device import waits


def test_operations_give_the_cpus_values_there(there):
    x = torch.randn(4, 3)
    layer = nn.Linear(3, 2)
    moved = copy.deepcopy(layer).to(there)
    assert moved.weight.device == there
    assert isinstance(moved.weight, nn.Parameter)
    for net, rows in ((layer, x), (moved, x.to(there))):
        net(rows).square().sum().backward()
    assert moved.weight.grad.device == there
    assert torch.equal(moved.weight.grad.cpu(), layer.weight.grad)
    assert moved.weight.tolist() == layer.weight.tolist()


def test_views_show_what_is_written_into_them(there):
    x = torch.zeros(3, 3, device=there)
    x[1].fill_(2.0)
    x.T[0].add_(1.0)
    assert x.tolist() == [[1, 0, 0], [3, 2, 2], [1, 0, 0]]


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: there @ here,
        lambda here, there: there.add_(here),
        lambda here, there: here.add_(there[0, 0]),
        lambda here, there: here[0, 0].clone().add_(there[0, 0]),
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.stack([here[0, 0], there[0, 0]]),
        lambda here, there: here[there[0].long()],
        lambda here, there: there.gather(1, here.long()),
        lambda here, there: there.index_select(0, here[0, 0].long()),
        lambda here, there: there.masked_fill(here[0, 0] > 0, 0.0),
        lambda here, there: torch.add(there[0, 0], there[1, 1], out=here[0, 0].clone()),
        lambda here, there: torch.where(here > 0, there, there),
        lambda here, there: nn.Linear(2, 2)(there),
    ],
)
def test_what_lies_in_two_places_is_refused(there, mixed):
    with pytest.raises(RuntimeError, match="takes tensors of one device"):
        mixed(torch.ones(2, 2), torch.ones(2, 2, device=there))


def test_numbers_and_places_to_index_by_may_lie_here(there):
    x = torch.arange(3.0, device=there)
    assert (x * torch.tensor(2.0)).tolist() == [0, 2, 4]
    assert x[torch.tensor([2, 0])].tolist() == [2, 0]
    assert x[torch.tensor([True, False, True])].tolist() == [0, 2]


def test_a_generator_of_the_cpu_draws_nothing_there(there):
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(RuntimeError, match="a generator of elsewhere"):
        torch.randn(3, generator=generator, device=there)
    with pytest.raises(RuntimeError, match="a generator of elsewhere"):
        torch.zeros(3, device=there).normal_(generator=generator)
    assert torch.randn(3, generator=generator).to(there).device == there


def test_numpy_has_no_hold_of_it(there):
    with pytest.raises(TypeError, match="elsewhere:0"):
        torch.zeros(3, device=there).numpy()
    assert torch.zeros(3, device=there).cpu().numpy().sum() == 0


def test_what_makes_a_gpu_wait_is_counted(there):
    x, here = torch.arange(4.0, device=there), torch.arange(4)
    turns = [
        lambda: x.sum().item(),
        lambda: x.cpu(),
        lambda: here.to(there),
        lambda: x.copy_(here),
        lambda: here.copy_(x),
        lambda: x[here],
        lambda: x[x > 1],
        lambda: torch.equal(x, x),
        lambda: x.new_tensor([1.0]),
        lambda: x.unique(),
    ]
    for turn in turns:
        waits.clear()
        turn()
        assert waits
    waits.clear()
    assert x.mul(2).add_(1).where(x > 1, 0.0).device == there
    assert x.to(torch.float64).device == there
    assert not waits
