"""nn.MultiheadAttention, opened: same function, same arguments, closed again where it can be."""

import itertools

import pytest
import torch
from torch import nn

import lorank
import tolerance
from lorank.nn import Attention, SVDLinear
from lorank.nn.surgery import closed, opened

SETTINGS = {
    "plain": {},
    "no bias": {"bias": False},
    "bias kv": {"add_bias_kv": True},
    "zero attention": {"add_zero_attn": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True},
    "kdim and vdim": {"kdim": 6, "vdim": 10},
    "kdim": {"kdim": 6, "bias": False},
}
L, S, B, E, H = 5, 4, 3, 8, 2


def dense(batch_first=False, **settings):
    module = nn.MultiheadAttention(E, H, batch_first=batch_first, **settings).double().eval()
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module


def inputs(module, batched=True, itself=False):
    def draw(length, width):
        size = (B, length, width) if module.batch_first else (length, B, width)
        return torch.randn(size if batched else (length, width), dtype=torch.float64)

    if itself:
        return (draw(L, E),) * 3
    return draw(L, E), draw(S, module.kdim), draw(S, module.vdim)


def masks(batched, keys):
    """Every form that torch takes, none of which hides all keys from a query."""
    hide = torch.rand(L, keys) > 0.7
    hide[:, 0] = False
    many = torch.rand((B if batched else 1) * H, L, keys) > 0.7
    many[:, :, 0] = False
    padding = torch.rand((B, keys) if batched else (keys,)) > 0.7
    padding[..., 0] = False
    yield {}
    for attn_mask in (None, hide, hide.double() * -2, many, many.double() * -1):
        for pad in (None, padding, padding.double() * -3):
            if attn_mask is None or pad is None or attn_mask.dtype == pad.dtype:
                yield {"attn_mask": attn_mask, "key_padding_mask": pad}


def assert_same(a, b, args, **named):
    want, want_weights = b(*args, **named)
    got, got_weights = a(*args, **named)
    # Softmax is 1-Lipschitz, and values enter through sums of E products in four projections.
    scale = 1 + float(want.detach().norm()) + sum(float(x.norm()) for x in args) ** 3
    allowed = tolerance.product(4 * E * (L + S), torch.float64) * scale
    assert got.shape == want.shape and tolerance.distance(got, want) <= allowed
    assert (got_weights is None) == (want_weights is None)
    if want_weights is not None:
        assert tolerance.distance(got_weights, want_weights) <= allowed


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_full_rank_is_the_dense_attention(settings, batch_first, batched):
    module = dense(batch_first, **settings)
    layer = lorank.decompose(module)
    assert all(isinstance(getattr(layer, f"{p}_proj"), SVDLinear) for p in ("q", "k", "v", "out"))
    cases = [inputs(module, batched)]
    if "kdim" not in settings:
        cases.append(inputs(module, batched, itself=True))
    for args in cases:
        keys = args[1].shape[1 if batched and batch_first else 0]
        for mask in masks(batched, keys):
            for need, average in ((True, True), (True, False), (False, True)):
                assert_same(
                    layer, module, args, need_weights=need, average_attn_weights=average, **mask
                )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_gradients_are_those_of_the_dense_attention(settings):
    module = dense(**settings).train()
    layer = opened(module)
    args = inputs(module)
    for need in (True, False):
        leaves = [[x.clone().requires_grad_() for x in args] for _ in range(2)]
        for m, leaf in zip((module, layer), leaves, strict=True):
            m(*leaf, need_weights=need)[0].square().sum().backward()
        for a, b in zip(*leaves, strict=True):
            torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_opening_copies_nothing_and_closing_gives_torchs_module_back(settings):
    module = dense(**settings)
    layer = opened(module)
    assert isinstance(layer, Attention)
    first = module.in_proj_weight if "kdim" not in settings else module.q_proj_weight
    assert layer.q_proj.weight.data_ptr() == first.data_ptr()
    again = closed(layer)
    assert type(again) is nn.MultiheadAttention
    assert again.state_dict().keys() == module.state_dict().keys()
    for key, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    args = inputs(module)
    assert torch.equal(again(*args)[0], module(*args)[0])
    low = lorank.decompose(module)
    assert type(lorank.fold(low)) is nn.MultiheadAttention
    assert_same(lorank.fold(low), module, args)


def test_ranks_cut_one_projection_and_leave_the_others():
    module = dense()
    layer = lorank.decompose(module, {"v_proj": 2, "out_proj": 3})
    assert type(layer.q_proj) is nn.Linear and layer.v_proj.rank == 2 and layer.out_proj.rank == 3
    folded = lorank.fold(layer)
    assert isinstance(folded, Attention) and isinstance(folded.v_proj, nn.Sequential)
    args = inputs(module)
    assert_same(folded, layer, args)
    low = lorank.cost(layer, args).macs
    assert low == lorank.cost(folded, args).macs < lorank.cost(module, args).macs


def test_frozen_halves_stay_frozen():
    module = dense()
    module.in_proj_weight.requires_grad_(False)
    layer = lorank.decompose(module)
    assert not layer.k_proj.U.requires_grad and layer.k_proj.bias.requires_grad
    assert layer.out_proj.U.requires_grad
    again = lorank.fold(layer)
    assert not again.in_proj_weight.requires_grad and again.in_proj_bias.requires_grad


def test_dropout_is_applied_in_training_alone():
    module = nn.MultiheadAttention(E, H, dropout=0.5)
    layer = lorank.decompose(module)
    x = torch.randn(L, B, E)
    for need in (True, False):
        assert not torch.equal(layer(x, x, x, need_weights=need)[0], layer(x, x, x)[0])
    layer.eval()
    assert torch.equal(layer(x, x, x)[0], layer(x, x, x)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_and_autocast(dtype):
    module = dense(add_bias_kv=True, add_zero_attn=True)
    args = inputs(module)
    want = module(*args)[0].detach()
    norm = float(want.norm())  # forty roundings, of four products and a softmax
    low = lorank.decompose(module)
    half = low.to(dtype)
    for need in (True, False):
        got = half(*(x.to(dtype) for x in args), need_weights=need)[0]
        assert got.dtype == dtype
        assert tolerance.distance(got, want) <= 40 * tolerance.eps(dtype) * norm
    single = lorank.decompose(module.float())
    with torch.autocast("cpu", torch.bfloat16):
        for need in (True, False):
            got = single(*(x.float() for x in args), need_weights=need)[0]
            assert tolerance.distance(got, want) <= 40 * 2**-7 * norm


def test_is_causal_needs_its_mask():
    layer, x = lorank.decompose(dense()), torch.randn(L, B, E, dtype=torch.float64)
    with pytest.raises(lorank.LorankError, match="hint about attn_mask"):
        layer(x, x, x, is_causal=True)


def encoder(layers=2, **settings):
    layer = nn.TransformerEncoderLayer(E, H, 12, batch_first=True, dropout=0.0, **settings)
    return nn.TransformerEncoder(layer, layers).double()


CHOICES = [
    None,
    {"layers.0.self_attn.q_proj": 2},
    {"layers.0.linear1": 2},
    {"layers.1.linear2": 2},
    {"layers.1.self_attn.out_proj": 3, "layers.0.linear2": 4},
]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("ranks", CHOICES)
def test_inside_an_encoder_on_every_path(ranks):
    """The fused path of torch reads weights past their layers, in evaluation without gradients."""
    model = encoder().eval()
    low = lorank.decompose(model, ranks)
    folded = lorank.fold(low)
    x = torch.randn(B, L, E, dtype=torch.float64)
    padding = torch.zeros(B, L, dtype=torch.bool)
    padding[1, 3:] = padding[2, 1:] = True
    causal = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    reference = model if ranks is None else low
    for named in ({}, {"src_key_padding_mask": padding}, {"mask": causal, "is_causal": True}):
        seen = ~named.get("src_key_padding_mask", torch.zeros(B, L, dtype=torch.bool))
        want = reference.train()(x, **named)[seen].detach()
        for m, training, grad in itertools.product((low, folded), (True, False), (True, False)):
            with torch.set_grad_enabled(grad):
                got = m.train(training)(x, **named)[seen]
            torch.testing.assert_close(got, want)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_that_is_dense_again_is_fused_again():
    model = encoder().eval()
    assert model.use_nested_tensor
    low = lorank.decompose(model)
    assert not low.use_nested_tensor and model.use_nested_tensor
    again = lorank.fold(low)
    assert again.use_nested_tensor and type(again.layers[0].self_attn) is nn.MultiheadAttention
    assert vars(again).keys() == vars(model).keys()


def test_inside_a_decoder():
    layer = nn.TransformerDecoderLayer(E, H, 12, batch_first=True, dropout=0.0)
    model = nn.TransformerDecoder(layer, 1).double()
    low = lorank.decompose(model)
    x, memory = (torch.randn(B, n, E, dtype=torch.float64) for n in (L, S))
    causal = nn.Transformer.generate_square_subsequent_mask(L, dtype=torch.float64)
    for m in (low, lorank.fold(low), low.eval()):
        got = m(x, memory, tgt_mask=causal, tgt_is_causal=True)
        torch.testing.assert_close(got, model(x, memory, tgt_mask=causal, tgt_is_causal=True))


def hooked():
    module = dense()
    module.register_forward_hook(lambda *_: None)
    return module


def hooked_inside():
    module = dense()
    module.out_proj.register_forward_pre_hook(lambda *_: None)
    return module


class Own(nn.MultiheadAttention):
    """A subclass may do anything."""


def normalised():
    module = dense()
    nn.utils.parametrizations.weight_norm(module.out_proj)
    return module


def normalised_inside():
    module = dense()
    nn.utils.parametrizations.spectral_norm(module, "in_proj_weight")
    return module


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (hooked, "carries hooks"),
        (hooked_inside, "carries hooks"),
        (lambda: Own(E, H), "Own runs in its own way"),
        (normalised, "were exchanged or are computed|is computed"),
        (normalised_inside, "ParametrizedMultiheadAttention runs in its own way"),
    ],
)
def test_attention_that_must_stay_packed(make, why):
    model = nn.Sequential(nn.Linear(E, E), make())
    low = lorank.decompose(model)
    assert isinstance(low[0], SVDLinear) and isinstance(low[1], nn.MultiheadAttention)
    assert not any(isinstance(m, SVDLinear) for m in low[1].modules())
    with pytest.raises(lorank.LorankError, match=f"'1.out_proj' stays dense: .*({why})"):
        lorank.decompose(model, {"1.out_proj": 2})


def test_an_encoder_layer_around_packed_attention_stays_whole():
    model = encoder(1).eval()
    model.layers[0].self_attn.register_forward_hook(lambda *_: None)
    with pytest.raises(lorank.LorankError, match=r"'layers.0.linear1' stays dense: the fused path"):
        lorank.decompose(model, {"layers.0.linear1": 2})


def test_two_attentions_that_share_their_parameters_still_do():
    a, b = dense(), dense()
    b.in_proj_weight, b.in_proj_bias = a.in_proj_weight, a.in_proj_bias
    model = nn.ModuleList([a, b, nn.Linear(E, E).double()])
    low = lorank.decompose(model)
    assert low[0].q_proj.U is low[1].q_proj.U and low[0].q_proj.bias is low[1].q_proj.bias
    for again in (lorank.fold(low), lorank.decompose(model, {"2": 2})):
        assert again[0].in_proj_weight is again[1].in_proj_weight
        assert again[0].in_proj_bias is again[1].in_proj_bias
    count = lorank.cost(model).params
    assert lorank.cost(low).params == lorank.cost(lorank.fold(low)).params == count
