"""What is missing in a batch, and how batches are mixed."""

import pytest
import torch

from lorank.errors import LorankError
from lorank.structured import masked_mse, mixed_batches
from lorank.structured.missing import labelled, present

NAN = float("nan")


def test_infinity_is_refused_and_not_missing():
    rows = torch.tensor([[1.0, 2.0], [NAN, float("-inf")]])
    with pytest.raises(LorankError, match=r"an input is finite, .* found Inf in 1 of 2 rows"):
        present(rows)
    with pytest.raises(LorankError, match=r"a label is finite, .* found Inf in 1 of 2 rows"):
        labelled(rows)


def test_rows_that_are_there():
    x = torch.tensor([[1.0, 2.0], [NAN, NAN]])
    assert present(x).tolist() == [True, False]
    assert present(torch.tensor([[1, 2]])).tolist() == [True]
    with pytest.raises(LorankError, match="1 of 2 rows with some entries NaN"):
        present(torch.tensor([[1.0, NAN], [1.0, 2.0]]))
    y = torch.tensor([[NAN, 1.0], [NAN, NAN], [1.0, 2.0]])
    assert labelled(y).tolist() == [True, False, True]
    assert labelled(y, whole=True).tolist() == [False, False, True]
    assert labelled(torch.tensor([3, -100])).tolist() == [True, False]


def test_masked_mse_is_the_mean_over_what_is_there():
    z, y = torch.randn(6, 4), torch.randn(6, 4)
    assert torch.allclose(masked_mse(z, y), torch.nn.functional.mse_loss(z, y))
    y[0, 1], y[3] = NAN, NAN
    known = ~y.isnan()
    assert torch.allclose(masked_mse(z, y), (z[known] - y[known]).square().mean())


def test_no_gradient_where_a_label_is_missing():
    z = torch.randn(3, 2, requires_grad=True)
    y = torch.tensor([[NAN, 1.0], [NAN, NAN], [0.0, 0.0]])
    masked_mse(z, y).backward()
    assert (z.grad == 0).tolist() == [[True, False], [True, True], [False, False]]
    assert masked_mse(z.detach(), torch.full((3, 2), NAN)).item() == 0.0


def test_shapes_do_not_broadcast():
    with pytest.raises(LorankError, match=r"found \(3, 1\) and \(3,\)"):
        masked_mse(torch.ones(3, 1), torch.ones(3))


def test_the_sum_is_in_float32():
    z = torch.zeros(1, 4096, dtype=torch.bfloat16)
    loss = masked_mse(z, torch.full((1, 4096), 0.1))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize("matched", [True, False])
def test_every_row_comes_once(matched):
    x, y = torch.arange(10.0)[:, None], torch.arange(10.0)[:, None]
    more_x, more_y = 100 + torch.arange(7.0)[:, None], 200 + torch.arange(5.0)[:, None]
    batches = list(mixed_batches(x, y, 4, x_only=more_x, y_only=more_y, matched=matched))
    X, Y = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
    here, known = ~X.isnan(), ~Y.isnan()
    assert torch.equal(X[here & known], Y[here & known])
    assert sorted(X[here & known].tolist()) == x.flatten().tolist()
    assert sorted(X[here & ~known].tolist()) == more_x.flatten().tolist()
    assert sorted(Y[~here & known].tolist()) == more_y.flatten().tolist()
    assert len(batches) == (3 if matched else 6)  # extra rows change the updates, or do not


def test_the_order_is_the_generators():
    x = torch.arange(20.0)[:, None]

    def order(seed):
        made = mixed_batches(x, x, 6, generator=torch.Generator().manual_seed(seed))
        return torch.cat([batch.x for batch in made]).flatten().tolist()

    assert order(1) == order(1) != order(2)


def test_labels_alone_and_inputs_alone():
    batches = list(mixed_batches(None, None, 3, x_only=torch.ones(4, 2), y_only=torch.ones(2, 1)))
    assert [len(batch.x) for batch in batches] == [3, 3]
    x, y = torch.ones(4, 2), torch.ones(2, 1)
    empty = mixed_batches(x[:0], y[:0], 3, x_only=x, y_only=y)  # pairs, but none of them
    assert [len(batch.x) for batch in empty] == [3, 3]


def test_classes_are_marked():
    x, y = torch.ones(2, 3), torch.tensor([1, 0])
    (batch,) = mixed_batches(x, y, 2, x_only=torch.ones(1, 3))
    assert sorted(batch.y.tolist()) == [-100, 0, 1]


def test_bad_input():
    with pytest.raises(LorankError, match="as many inputs as labels, found 3 and 2"):
        next(mixed_batches(torch.ones(3, 1), torch.ones(2, 1), 2))
    with pytest.raises(LorankError, match="one kind or none"):
        next(mixed_batches(None, None, 2, x_only=torch.ones(3, 1)))
    x = torch.ones(3, 1)
    for size in (0, 1.5):
        with pytest.raises(LorankError, match=f"at least one, found size {size}"):
            next(mixed_batches(x, x, size))
    for more in (torch.ones(2, 4), torch.ones(2, 1).double()):
        with pytest.raises(LorankError, match="inputs of pairs and alone have rows of one kind"):
            next(mixed_batches(x, x, 2, x_only=more))
        with pytest.raises(LorankError, match="labels of pairs and alone have rows of one kind"):
            next(mixed_batches(x, x, 2, y_only=more))
    with pytest.raises(LorankError, match=r"NaN, which torch\.int64 has not"):
        next(mixed_batches(x.long(), x, 2, y_only=x))
    with pytest.raises(LorankError, match="cut from tensors, found a ndarray"):
        next(mixed_batches(x, x.numpy(), 2))
    with pytest.raises(LorankError, match="one tensor here, found a tuple"):
        masked_mse((x, x), x)


def test_inputs_of_one_number_and_no_rows():
    assert present(torch.tensor([1.0, float("nan")])).tolist() == [True, False]
    for whole in (False, True):
        assert labelled(torch.ones(0, 3), whole=whole).shape == (0,)
