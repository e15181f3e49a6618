"""What a network costs, against torch's counter and against formulas."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import lorank
from compression.networks import draw, mixed, small


def counted(model, *args):
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), counter:
            model.eval()(*args)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() // 2


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1, groups=2),
        nn.Conv2d(6, 6, 3, groups=6, padding="same"),
        nn.Conv2d(6, 4, 1),
    )


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: small(6, 12, 4), torch.randn(3, 6)),
        (convolutions, torch.randn(2, 3, 8, 8)),
        (convolutions, torch.randn(2, 3, 9, 7)),
    ],
)
def test_macs_are_those_of_torchs_counter(make, x):
    dense = make()
    assert lorank.cost(dense, x).macs == counted(dense, x)
    for rank in (None, 1, 2):
        spectra = lorank.measure(dense, x)
        ranks = rank and {name: min(rank, s.full_rank) for name, s in spectra.items()}
        low = lorank.decompose(dense, ranks)
        folded = lorank.fold(low, example=x)
        assert lorank.cost(low, x).macs == counted(folded, x) == lorank.cost(folded, x).macs
        assert lorank.measure(low, x).macs == lorank.measure(dense, x).macs == counted(dense, x)
        assert lorank.measure(low).params == lorank.cost(dense).params


def test_attention_is_counted_with_its_products():
    dense = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = torch.randn(3, 5, 8)
    products = 2 * 3 * 5 * 5 * 8
    want = 3 * 5 * 4 * 8 * 8 + products
    assert lorank.cost(dense, (x, x, x)).macs == want == counted(dense, x, x, x)
    low = lorank.decompose(dense, {"q_proj": 2, "out_proj": 1})
    want = 3 * 5 * (2 * 8 * 8 + 3 * (8 + 8)) + products
    folded = lorank.fold(low)
    assert lorank.cost(low, (x, x, x)).macs == want == counted(folded, x, x, x)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()
    want = 3 * 5 * (4 * 8 * 8 + 2 * 8 * 12) + products
    assert lorank.cost(layer, x).macs == want == lorank.cost(lorank.decompose(layer), x).macs


def test_a_table_is_read_for_nothing_and_its_pair_is_not():
    dense, x = nn.Embedding(50, 8), torch.arange(12).view(3, 4)
    assert lorank.cost(dense, x).macs == 0
    low = lorank.decompose(dense, {"": 2})
    assert lorank.cost(low, x) == lorank.cost(lorank.fold(low), x)
    assert lorank.cost(low, x)[:2] == (2 * (50 + 8), 12 * 2 * 8)
    assert lorank.cost(lorank.decompose(dense, layers=["*"]), x)[:2] == (400, 0)


RECURRENT = {
    "LSTM": (lambda: nn.LSTM(6, 5), 4 * 5 * (6 + 5)),
    "LSTM float64": (lambda: nn.LSTM(6, 5).double(), 4 * 5 * (6 + 5)),
    "LSTM two ways": (lambda: nn.LSTM(6, 5, 2, bidirectional=True), 40 * (6 + 5) + 40 * (10 + 5)),
    "LSTM projected": (lambda: nn.LSTM(6, 5, proj_size=3), 4 * 5 * (6 + 3) + 3 * 5),
    "GRU": (lambda: nn.GRU(6, 5), 3 * 5 * (6 + 5)),
    "RNN": (lambda: nn.RNN(6, 5, bias=False), 5 * (6 + 5)),
}


@pytest.mark.parametrize(("make", "each"), RECURRENT.values(), ids=RECURRENT)
def test_recurrent_layers_by_formula(make, each):
    layer = make()
    x = torch.randn(7, 3, 6, dtype=layer.weight_ih_l0.dtype)
    assert lorank.cost(layer, x).macs == 7 * 3 * each
    assert lorank.cost(layer, {"input": x}).macs == 7 * 3 * each
    assert lorank.cost(layer, x[:, 0]).macs == 7 * each
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 4, 2]))
    assert lorank.cost(nn.ModuleList([layer])[0], (packed,)).macs == 13 * each


def test_params_and_bytes():
    model = mixed()
    held = sum(p.numel() for p in model.parameters())
    buffers = [b for b in model.buffers() if b.dtype == torch.float64]
    whole = 8 * (held + sum(b.numel() for b in buffers)) + 8
    assert lorank.cost(model) == (held, None, whole)
    assert lorank.cost(lorank.decompose(model)) == (held, None, whole)
    half = small(8, 8).half()
    assert lorank.cost(half) == (72, None, 144)
    assert lorank.cost(lorank.decompose(half, {"0": 2})) == (40, None, 80)


def test_a_network_in_svd_form_costs_what_it_folds_into():
    dense, x = mixed(), draw()
    full = lorank.measure(dense, x)
    for share in (0.2, 0.5, 0.8, 1.0):
        low = lorank.decompose(
            dense, {n: max(1, int(share * s.full_rank)) for n, s in full.items()}
        )
        assert lorank.cost(low) == lorank.cost(lorank.fold(low))
        folded = lorank.fold(low, example=x)
        assert lorank.cost(low, x) == lorank.cost(folded, x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Linear(4, 4)

    def forward(self, x, again=True):
        y = self.conv(nn.functional.avg_pool2d(x, 2))
        return (self.conv(input=x) if again else x).sum() + y.sum()


def test_every_call_counts_and_layers_that_are_not_called_cost_nothing():
    model, x = Twice(), torch.randn(2, 4, 8, 8)
    spectra = lorank.measure(model, x)
    assert spectra["conv"].macs.dense == 2 * (64 + 16) * 4 * 4 * 9 == spectra.macs
    assert spectra["unused"].macs == (0, 0)
    once = lorank.cost(model, {"x": x, "again": False}).macs
    assert once == 2 * 16 * 4 * 4 * 9
    low = lorank.decompose(model, {"conv": 1, "unused": 1})
    assert lorank.cost(low, (x, True)) == lorank.cost(
        lorank.fold(low, example=(x, True)), (x, True)
    )


def test_an_example_is_a_tensor_a_tuple_or_a_dict():
    model = mixed()
    image, words = draw()
    want = lorank.cost(model, (image, words))
    assert lorank.cost(model, [image, words]) == want
    assert lorank.cost(model, {"image": image, "words": words}) == want
    assert lorank.measure(model, {"image": image, "words": words}).macs == want.macs


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (torch.randn(2, 5), r"failed on a tensor of shape \(2, 5\): .*multiplied"),
        ((torch.randn(2, 6), 3), r"failed on 2 inputs: a tensor of shape \(2, 6\), a int"),
        ({"z": torch.randn(2, 6)}, r"failed on named inputs z: a tensor .*unexpected keyword"),
        ("text", "failed on a str"),
    ],
)
def test_an_example_that_does_not_fit(example, sentence):
    model = small(6, 4, 3).train()
    for stage in (lorank.cost, lorank.measure):
        with pytest.raises(lorank.LorankError, match="must run on the example, and " + sentence):
            stage(model, example)
    with pytest.raises(lorank.LorankError, match="must run on the example"):
        lorank.fold(lorank.decompose(model), example=example)
    assert model.training and model[0].training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()
