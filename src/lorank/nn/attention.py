"""Multi-head attention with its four projections as layers of their own.

``nn.MultiheadAttention`` packs three projections into one parameter and reads all four weights
past their layers, so no projection can be replaced in it. :func:`unpack` opens it without
copying a weight, :func:`pack` closes it again where all four stayed dense.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lorank.errors import LorankError
from lorank.nn.factored import HOOKS, carries_hooks
from lorank.nn.linear import linear

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")

PACKED = {"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"}
"""Parameters that every ``nn.MultiheadAttention`` has, or has as ``None``."""


class Attention(nn.Module):
    """Same function and arguments as ``nn.MultiheadAttention``, projections kept apart.

    ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj`` are modules: dense, in SVD form, or the
    pair that a layer in SVD form folds into. Also runs inside ``nn.TransformerEncoderLayer``.

    Example:
        >>> dense = nn.MultiheadAttention(8, 2)
        >>> opened = unpack(dense)
        >>> x = torch.ones(3, 1, 8)
        >>> torch.allclose(opened(x, x, x)[0], dense(x, x, x)[0], atol=1e-6)
        True
    """

    # What nn.TransformerEncoderLayer reads to decide whether its fused path applies: it does not.
    _qkv_same_embed_dim = False
    in_proj_bias = None

    out_proj: nn.Module
    bias_k: nn.Parameter | None
    bias_v: nn.Parameter | None

    def __init__(
        self,
        projections: dict[str, nn.Module],
        num_heads: int,
        embed_dim: int,
        dropout: float = 0.0,
        batch_first: bool = False,
        bias_k: nn.Parameter | None = None,
        bias_v: nn.Parameter | None = None,
        add_zero_attn: bool = False,
    ):
        super().__init__()
        for name in PROJECTIONS:
            self.add_module(name, projections[name])
        self.num_heads = num_heads
        self.embed_dim = embed_dim
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.add_zero_attn = add_zero_attn
        self.register_parameter("bias_k", bias_k)
        self.register_parameter("bias_v", bias_v)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as ``nn.MultiheadAttention`` does; same arguments, same result."""
        if is_causal and attn_mask is None:
            raise LorankError("is_causal is a hint about attn_mask, which must be given with it")
        batched = query.ndim == 3
        order = 1 if batched and not self.batch_first else 0
        q, k, v = (
            self._read(projection, x, order, batched)
            for projection, x in zip(PROJECTIONS, (query, key, value), strict=False)
        )
        k, v, extra = self._extend(k, v)
        q, k, v = (self._heads(x) for x in (q, k, v))
        mask = self._mask(q, attn_mask, key_padding_mask, extra)
        out, weights = self._attend(q, k, v, mask, need_weights)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return out[0], None if weights is None else weights[0]
        return out.transpose(0, order), weights

    def _read(self, projection: str, x: Tensor, order: int, batched: bool) -> Tensor:
        """Project, as ``(batch, length, embed_dim)``."""
        y = getattr(self, projection)(x)
        return y.transpose(0, order) if batched else y.unsqueeze(0)

    def _extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Append the learned and the zero entry; return how many were appended."""
        extra = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(len(v), 1, -1)], 1)
            extra += 1
        if self.add_zero_attn:
            k, v = (torch.cat([x, x.new_zeros(len(x), 1, x.shape[-1])], 1) for x in (k, v))
            extra += 1
        return k, v, extra

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(
        self, q: Tensor, attn_mask: Tensor | None, padding: Tensor | None, extra: int
    ) -> Tensor | None:
        """Both masks as one that is added to the scores; appended entries are always seen."""
        total = None
        if attn_mask is not None:
            mask = additive(attn_mask, q.dtype)
            if mask.ndim == 3:
                mask = mask.unflatten(0, (-1, self.num_heads))
            total = mask
        if padding is not None:
            padding = padding if padding.ndim == 2 else padding.unsqueeze(0)
            mask = additive(padding, q.dtype)[:, None, None]
            total = mask if total is None else total + mask
        return total if total is None else F.pad(total, (0, extra))

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, mask, dropout), None
        scores = (q * self.head_dim**-0.5) @ k.mT
        weights = F.dropout((scores if mask is None else scores + mask).softmax(-1), dropout)
        return weights @ v, weights


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask of forbidden places into one that is added: 0 or minus infinity.

    Example:
        >>> additive(torch.tensor([False, True]), torch.float32)
        tensor([0., -inf])
    """
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)


PLAIN = (NonDynamicallyQuantizableLinear, nn.Linear)
"""What ``out_proj`` may be: both run in the same way."""

Ties = dict[Any, Any]
"""What was made of a parameter (or of three): modules that shared it share the result."""


def obstacle(module: nn.MultiheadAttention) -> str | None:
    """Say why a packed attention cannot be opened, or ``None``."""
    if type(module) is not nn.MultiheadAttention or "forward" in vars(module):
        return f"{type(module).__name__} runs in its own way"
    out = module.out_proj
    if carries_hooks(module) or carries_hooks(out):
        return HOOKS
    whole = PACKED <= set(module._parameters) <= PACKED | {"bias_k", "bias_v"}
    if not whole or set(module._modules) != {"out_proj"} or type(out) not in PLAIN:
        return "its projections were exchanged or are computed"
    return None if set(out._parameters) == {"weight", "bias"} else "its out_proj is computed"


def unpack(module: nn.MultiheadAttention, ties: Ties | None = None) -> Attention:
    """Open a packed attention: its projections become linear layers on the same memory."""
    ties = {} if ties is None else ties
    if module.in_proj_weight is not None:
        weights = parts(module.in_proj_weight, ties)
    else:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    biases = [None] * 3 if module.in_proj_bias is None else parts(module.in_proj_bias, ties)
    layers: list[nn.Module] = [linear(w, b) for w, b in zip(weights, biases, strict=True)]
    out: Any = module.out_proj
    layers.append(linear(out.weight, out.bias))
    attention = Attention(
        dict(zip(PROJECTIONS, layers, strict=True)),
        module.num_heads,
        module.embed_dim,
        module.dropout,
        module.batch_first,
        cast("nn.Parameter | None", module.bias_k),
        cast("nn.Parameter | None", module.bias_v),
        module.add_zero_attn,
    )
    return attention.train(module.training)


def parts(packed: nn.Parameter, ties: Ties) -> list[nn.Parameter]:
    """Make three parameters of a packed one, on the same memory, trainable as the whole is."""
    if id(packed) not in ties:
        pieces = packed.detach().chunk(3)
        ties[id(packed)] = [nn.Parameter(p, requires_grad=packed.requires_grad) for p in pieces]
    return ties[id(packed)]


def is_dense(attention: Attention) -> bool:
    """Whether all four projections are plain linear layers, so that :func:`pack` applies."""
    return all(type(getattr(attention, name)) is nn.Linear for name in PROJECTIONS)


def pack(attention: Attention, ties: Ties | None = None) -> nn.MultiheadAttention:
    """Close an attention whose projections are all dense: torch's own module again."""
    ties = {} if ties is None else ties
    q, k, v, out = (getattr(attention, name) for name in PROJECTIONS)
    module = nn.MultiheadAttention(
        attention.embed_dim,
        attention.num_heads,
        attention.dropout,
        bias=q.bias is not None,
        add_bias_kv=attention.bias_k is not None,
        add_zero_attn=attention.add_zero_attn,
        kdim=k.in_features,
        vdim=v.in_features,
        batch_first=attention.batch_first,
        device="meta",
    )
    if module.in_proj_weight is None:
        module.q_proj_weight, module.k_proj_weight, module.v_proj_weight = (
            x.weight for x in (q, k, v)
        )
    else:
        module.in_proj_weight = joined([x.weight for x in (q, k, v)], ties)
    if q.bias is not None:
        module.in_proj_bias = joined([x.bias for x in (q, k, v)], ties)
    module.out_proj.weight, module.out_proj.bias = out.weight, out.bias
    module.bias_k, module.bias_v = attention.bias_k, attention.bias_v
    return module.train(attention.training)


def joined(parts: list[nn.Parameter], ties: Ties) -> nn.Parameter:
    """Make one parameter of several, stacked."""
    key = tuple(id(p) for p in parts)
    if key not in ties:
        whole = torch.cat([p.detach() for p in parts])
        ties[key] = nn.Parameter(whole, requires_grad=all(p.requires_grad for p in parts))
    return ties[key]
