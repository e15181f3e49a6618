"""Moments against dense computations, and a network that is left as it was."""

import dataclasses
import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lorank
from compression.networks import draw, mixed, small
from lorank import LorankError, calibrate
from lorank.compression.calibrate import Calibration
from tolerance import product

ROOT = Path(__file__).parents[2]


def close(found, want, terms=100):
    """Equal to rounding: sums of ``terms`` products in another order."""
    assert found.shape == want.shape
    bound = product(terms, torch.float64) * float(want.detach().norm())
    assert float((found - want).norm()) <= bound


def convolutions():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).double()


def settled():
    model = convolutions()
    model(torch.randn(8, 2, 5, 5, dtype=torch.float64))
    return model.eval()


def unfolded(layer, x):
    """Patches by torch's own unfolding: ``(samples · positions, groups, n)``."""
    rows = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return rows.mT.flatten(0, 1).unflatten(-1, (layer.groups, -1))


def test_inputs_are_the_mean_over_all_patches():
    model, x = settled(), torch.randn(6, 2, 5, 5, dtype=torch.float64)
    found = calibrate(model, [x], positions=None)
    assert list(found) == ["0", "3", "6"] and found.samples == 6
    maps = [model[:i](x).detach() for i in (0, 3, 6)]
    for name, reads in (("0", unfolded(model[0], maps[0])), ("3", unfolded(model[3], maps[1]))):
        close(found[name].inputs, torch.einsum("rgi,rgj->gij", reads, reads) / len(reads), 300)
        assert found[name].rows == len(reads)
    close(found["6"].inputs, (maps[2].mT @ maps[2] / 6)[None])
    assert found["6"].rows == 6


def by_basis(monkeypatch, model, batch, answer=lambda y: y, **options):
    """Calibrate with each unit vector in the place of the noise, once: an exact mean."""
    size = answer(model(batch)).shape[1:].numel()
    units = iter(torch.eye(size, dtype=torch.float64))

    def unit(shape, **_):
        return next(units).reshape(shape[1:]).expand(shape)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn", unit)
        found = calibrate(model, [batch] * size, answer=answer, **options)
    # each sample came once with each unit vector, of which normal noise is made
    return {name: one._replace(outputs=one.outputs * size) for name, one in found.items()}


def jacobians(after, writes, groups=1):
    """``E[Σ g·gᵀ]`` by the whole derivative of the answer at what a layer writes, per sample."""
    total = 0
    for y in writes.detach():
        J = torch.func.jacrev(lambda one: after(one[None])[0])(y)
        J = J.flatten(0, -y.ndim - 1).reshape(-1, groups, y.shape[0] // groups, y[0].numel())
        total = total + torch.einsum("agip,agjp->gij", J, J)
    return total / len(writes)


def test_outputs_are_the_derivatives_of_the_answer(monkeypatch):
    model, x = settled(), torch.randn(3, 2, 5, 5, dtype=torch.float64)
    found = by_basis(monkeypatch, model, x)
    for name, at, groups in (("0", 0, 1), ("3", 3, 2), ("6", 6, 1)):
        want = jacobians(model[at + 1 :], model[: at + 1](x), groups)
        close(found[name].outputs, want, 500)
    close(found["6"].outputs, torch.eye(3, dtype=torch.float64)[None])


def test_outputs_with_the_noise_that_was_drawn():
    """One backward pass by hand, for several axes in the answer."""
    model, x = small(5, 6, 4).double(), torch.randn(7, 3, 5, dtype=torch.float64)
    found = calibrate(model, [x], positions=None, seed=3)
    v = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(3)).double()
    first = model[0](x)
    g = (v @ model[2].weight) * (first > 0)
    close(found["0"].outputs, torch.einsum("bpi,bpj->ij", g, g)[None] / 7)
    close(found["2"].outputs, torch.einsum("bpi,bpj->ij", v, v)[None] / 7)
    other = calibrate(model, [x], positions=None, seed=4)
    assert not torch.equal(other["2"].outputs, found["2"].outputs)
    assert torch.equal(other["2"].inputs, found["2"].inputs)


def test_noise_has_the_derivatives_as_its_mean():
    model, x = small(4, 3, 2).double(), torch.randn(4000, 4, dtype=torch.float64)
    found = calibrate(model, [x])["2"].outputs[0]
    # a mean of 4000 squares of normal noise: five deviations of √(2 / 4000) and of √(1 / 4000)
    assert float((found - torch.eye(2)).abs().max()) < 5 * math.sqrt(2 / 4000)


def test_the_size_of_a_batch_is_no_matter():
    model, x = settled(), torch.randn(12, 2, 5, 5, dtype=torch.float64)
    whole = calibrate(model, [x], positions=None)
    parts = calibrate(model, (part for part in x.split([1, 4, 7])), positions=None)
    for name in whole:
        close(parts[name].inputs, whole[name].inputs, 500)
        assert parts[name].rows == whole[name].rows
    assert parts.samples == whole.samples == 12


def test_positions_bound_the_rows():
    model, x = settled(), torch.randn(5, 2, 5, 5, dtype=torch.float64)
    found = calibrate(model, [x], positions=3)
    assert {name: one.rows for name, one in found.items()} == {"0": 15, "3": 15, "6": 5}
    assert torch.equal(calibrate(model, [x], positions=3)["0"].inputs, found["0"].inputs)
    other = calibrate(model, [x], positions=3, seed=1)["0"].inputs
    assert not torch.equal(other, found["0"].inputs)


def test_inputs_alone():
    model, x = settled(), torch.randn(5, 2, 5, 5, dtype=torch.float64)
    with torch.no_grad():
        found = calibrate(model, [x], outputs=False, positions=None)
    both = calibrate(model, [x], positions=None)
    for name in both:
        assert found[name].outputs is None
        assert torch.equal(found[name].inputs, both[name].inputs)


def state_of(model):
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        {n: (p.requires_grad, None if p.grad is None else p.grad.clone(), id(p))
         for n, p in model.named_parameters()},
        [m.training for m in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [id(m) for m in model.modules()],
    )  # fmt: skip


def same_state(a, b):
    assert a[0].keys() == b[0].keys() and all(torch.equal(a[0][k], b[0][k]) for k in a[0])
    for name, (asked, grad, identity) in a[1].items():
        assert b[1][name][0] == asked and b[1][name][2] == identity
        assert (grad is None) == (b[1][name][1] is None)
        assert grad is None or torch.equal(grad, b[1][name][1])
    assert a[2:] == b[2:]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("outputs", [False, True])
def test_the_model_is_left_as_it_was(outputs, fails):
    model = mixed().train()
    model.stem.eval()
    model.body.weight.requires_grad_(False)
    model(*draw()).sum().backward()
    seen = []
    model.body.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    model.drop.register_forward_hook(lambda *_: seen.append("drop"))
    before = state_of(model)
    batches = [draw(), draw()]
    random = torch.get_rng_state()
    if fails:
        broken = batches[1][0].clone()
        broken[0, 0, 0, 0] = math.nan
        with pytest.raises(LorankError, match=r"finite inputs, and layer 'stem\.0' read NaN"):
            calibrate(model, [batches[0], (broken, batches[1][1])], outputs=outputs)
    else:
        calibrate(model, batches, outputs=outputs)
    same_state(before, state_of(model))
    assert seen and torch.equal(random, torch.get_rng_state())


def test_frozen_weights_and_integer_inputs():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    model.requires_grad_(False)
    words = torch.randint(9, (6, 3))
    found = calibrate(model, [words], positions=None)
    assert list(found) == ["1", "3"]  # a table that is only looked up reads no input
    x = model[0](words).flatten(0, 1)
    close(found["1"].inputs, (x.mT @ x / 18)[None])
    v = torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    g = (v @ model[3].weight) * (1 - model[1](model[0](words)).tanh().square())
    close(found["1"].outputs, torch.einsum("bpi,bpj->ij", g, g)[None] / 6)
    assert not any(p.requires_grad for p in model.parameters())


class Answers(nn.Module):
    """Takes named inputs, and returns what it is told to."""

    def __init__(self, give):
        super().__init__()
        self.body, self.head, self.give = nn.Linear(4, 3), nn.Linear(3, 2), give

    def forward(self, x, scale=1.0):
        y = self.body(x) * scale
        return self.give(y, self.head(y))


class Output(dict):
    """A mapping with attributes, as transformers have."""

    def __getattr__(self, name):
        return self[name]


@dataclasses.dataclass
class Plain:
    hidden: torch.Tensor


GIVES = {
    "tensor": (lambda y, z: z, 2),
    "tuple": (lambda y, z: (torch.tensor(3), z, y), 2),
    "list": (lambda y, z: [z, y], 2),
    "dict": (lambda y, z: {"ids": torch.arange(3), "hidden": y, "other": z}, 3),
    "logits": (lambda y, z: Output(loss=y.sum(), logits=z), 2),
}


@pytest.mark.parametrize(("give", "size"), GIVES.values(), ids=GIVES)
@pytest.mark.parametrize("named", [False, True])
def test_batches_and_answers_of_all_kinds(give, size, named):
    x = torch.randn(5, 4, dtype=torch.float64)
    batch = {"x": x, "scale": 2.0} if named else (x, 2.0)
    found = calibrate(Answers(give).double(), [batch])
    assert found.samples == 5
    # a layer that the answer does not depend on is left out
    assert set(found) == ({"body", "head"} if size == 2 else {"body"})
    v = torch.randn(5, size, generator=torch.Generator().manual_seed(0)).double()
    if size == 2:
        close(found["head"].outputs, (v.mT @ v)[None] / 5)
    else:
        close(found["body"].outputs, 4 * (v.mT @ v)[None] / 5)


def test_an_answer_may_be_picked():
    model, x = Answers(lambda y, z: Plain(y)).double(), torch.randn(5, 4, dtype=torch.float64)
    with pytest.raises(LorankError, match="found a Plain: pick one with answer"):
        calibrate(model, [x])
    found = calibrate(model, [x], answer=lambda result: result.hidden)
    v = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    close(found["body"].outputs, (v.mT @ v)[None] / 5)


@pytest.mark.parametrize("inplace", [nn.ReLU(inplace=True), nn.Hardtanh(inplace=True)])
def test_what_works_in_place_after_a_layer(inplace):
    model = nn.Sequential(nn.Linear(4, 5), inplace, nn.Linear(5, 2)).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    found = calibrate(model, [x])
    inplace.inplace = False
    want = calibrate(model, [x])
    for name in want:
        assert all(torch.equal(a, b) for a, b in zip(found[name][:2], want[name][:2], strict=True))


class Twice(nn.Module):
    """One layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.one, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.one(torch.tanh(self.one(x)))))


def test_a_layer_that_is_called_twice(monkeypatch):
    model, x = Twice().double(), torch.randn(5, 4, dtype=torch.float64)
    found = by_basis(monkeypatch, model, x)["one"]
    first = model.one(x).detach()
    inner = first.tanh()
    reads = torch.cat([x, inner])
    close(found.inputs, (reads.mT @ reads / 10)[None])
    late = jacobians(lambda y: model.head(y.tanh()), model.one(inner))
    early = jacobians(lambda y: model.head(model.one(y.tanh()).tanh()), first)
    close(found.outputs, late + early, 500)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.body, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7)
        self.head.weight = self.table.weight

    def forward(self, words):
        return self.head(self.body(self.table(words)).tanh())


def test_of_a_tied_table_what_multiplies_is_watched():
    model, words = Tied().double(), torch.randint(7, (5, 3))
    found = calibrate(model, [words], positions=None)
    assert list(found) == ["table", "body"]
    reads = model.body(model.table(words)).tanh().detach().flatten(0, 1)
    close(found["table"].inputs, (reads.mT @ reads / 15)[None])
    assert found["table"].outputs.shape == (1, 7, 7)
    low = lorank.decompose(model, {"table": 2}, calibration=found)
    assert low.head.U is low.table.U and low.head.rank == 2


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def test_packed_attention_is_opened(monkeypatch):
    model, x = Attends().double().eval(), torch.randn(3, 4, 8, dtype=torch.float64)
    found = by_basis(monkeypatch, model, x, positions=None)
    names = [f"attention.{part}" for part in ("q_proj", "k_proj", "v_proj", "out_proj")]
    assert list(found) == names
    rows = x.flatten(0, 1)
    for name in names[:3]:
        close(found[name].inputs, (rows.mT @ rows / 12)[None], 200)
    close(found[names[3]].outputs, 4 * torch.eye(8, dtype=torch.float64)[None])
    assert isinstance(model.attention, nn.MultiheadAttention)
    low = lorank.decompose(model, {names[1]: 3}, calibration=calibrate(model, [x]))
    assert low.attention.k_proj.rank == 3


@pytest.mark.parametrize("outputs", [False, True])
def test_the_fused_path_of_encoder_layers_hides_no_layer(outputs):
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    found = calibrate(model, [torch.randn(3, 4, 8)], outputs=outputs)
    parts = [f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")] + ["linear1", "linear2"]
    assert list(found) == [f"layers.{i}.{part}" for i in (0, 1) for part in parts]


def test_half_precision_and_autocast_are_summed_in_more():
    model, x, rows = small(64, 32, 4), torch.rand(20, 64), 20
    half = calibrate(model.bfloat16(), [x.bfloat16()])
    exact = x.bfloat16().double()
    want = (exact.mT @ exact / rows)[None]
    assert half["0"].inputs.dtype == half["0"].outputs.dtype == torch.float64
    allowed = product(rows, torch.float32) * float(want.norm())
    assert float((half["0"].inputs - want).norm()) <= allowed
    model = model.float()
    with torch.autocast("cpu", torch.bfloat16):
        cast = calibrate(model, [x])
    exact = x.double()
    want = (exact.mT @ exact / rows)[None]
    allowed = product(rows, torch.float32) * float(want.norm())
    assert float((cast["0"].inputs - want).norm()) <= allowed
    # negative control: what products in half precision would have given
    coarse = (x.bfloat16().mT @ x.bfloat16()).double() / rows
    assert float((coarse - want).norm()) > allowed


def test_networks_in_svd_form_read_and_write_the_same():
    model, x = settled(), torch.randn(6, 2, 5, 5, dtype=torch.float64)
    dense = calibrate(model, [x])
    low = calibrate(lorank.decompose(model), [x])
    for name in dense:
        close(low[name].inputs, dense[name].inputs, 10**4)
        close(low[name].outputs, dense[name].outputs, 10**4)


class Branch(nn.Module):
    """Takes one of two ways."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 3), nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(torch.relu(self.left(x) if x.mean() < 10 else self.right(x)))


def test_layers_that_are_not_reached_are_left_out():
    model, x = Branch(), torch.rand(5, 3)
    found = calibrate(model, [x])
    assert list(found) == ["left", "head"]
    assert list(calibrate(model, [x, x + 20])) == ["left", "right", "head"]
    assert list(lorank.measure(model, x, calibration=found)) == ["left", "head"]
    sentence = "calibration has seen no input of 'right': calibrate the same network"
    with pytest.raises(LorankError, match=sentence):
        lorank.measure(model, x, layers=["right"], calibration=found)
    with pytest.raises(LorankError, match=sentence):
        lorank.decompose(model, {"right": 2}, calibration=found)
    with pytest.raises(LorankError, match="reached no layer that can be decomposed"):
        calibrate(model, [x], layers=["right"])


def test_choosing_layers():
    model, x = small(4, 4, 4, 4), torch.rand(5, 4)
    assert list(calibrate(model, [x], layers=["2", "4"])) == ["2", "4"]
    assert list(calibrate(model, [x], skip=["2"])) == ["0", "4"]
    with pytest.raises(LorankError, match="unknown layer 'nowhere'"):
        calibrate(model, [x], layers=["nowhere"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_name_the_layer(bad):
    model, x = small(4, 5, 3), torch.rand(6, 4)
    x[2, 1] = bad
    with pytest.raises(LorankError, match=r"layer '0' read NaN or Inf in a tensor of shape \(6, 4"):
        calibrate(model, [torch.rand(6, 4), x])
    model[0].bias.data[0] = bad
    with pytest.raises(LorankError, match="layer '2' read NaN or Inf"):
        calibrate(model, [torch.rand(6, 4)])


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)

    def forward(self, x):
        return self.body(x).detach()


@pytest.mark.parametrize(
    ("model", "batches", "sentence"),
    [
        (small(4, 3), [], "calibration needs at least one batch, found none"),
        (small(4, 3), [torch.rand(0, 4)], "needs at least one batch"),
        (small(4, 3), [torch.rand(2, 5)], r"must run on every batch, and failed on .*\(2, 5\)"),
        (small(4, 3), [{"y": torch.rand(2, 4)}], "must run on every batch, and failed on named"),
        (nn.ReLU(), [torch.rand(2, 4)], "layers or skip leave none"),
        (Detached(), [torch.rand(2, 4)], "answer must depend on its layers by a derivative"),
    ],
)
def test_one_sentence_for_what_cannot_be(model, batches, sentence):
    with pytest.raises(LorankError, match=sentence) as caught:
        calibrate(model, batches)
    assert "\n" not in str(caught.value)


def test_inference_mode_is_refused():
    with torch.inference_mode(), pytest.raises(LorankError, match="inference_mode"):
        calibrate(small(4, 3), [torch.rand(2, 4)])


def test_fewer_samples_than_features_cut_nothing_to_pieces():
    model, few = small(40, 30, 5).double(), torch.randn(6, 40).double()
    found = calibrate(model, [few])
    assert torch.linalg.matrix_rank(found["0"].inputs[0]) <= 6
    low = lorank.decompose(model, {"0": 8, "2": 2}, calibration=found)
    plain = lorank.decompose(model, {"0": 8, "2": 2})
    x = torch.randn(500, 40).double()
    lost = [float((net(x) - model(x)).norm()) for net in (low, plain)]
    assert lost[0] < 1.5 * lost[1]
    assert float(low[0].weight.norm()) < 2 * float(model[0].weight.norm())


WORK = """
    import sys, torch
    import torch.distributed as dist
    sys.path[:0] = [{tests!r}, {source!r}]
    torch.set_num_threads(1)
    import lorank
    from compression.test_calibrate import Branch, halves, settled
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    model, branch, (mine, x) = settled(), Branch(), halves(rank)
    found = lorank.calibrate(model, mine, positions=None)
    alone = lorank.calibrate(branch, [x] if rank else [])
    low = lorank.decompose(model, {ranks!r}, calibration=found)
    better = lorank.reconstruct(low, model, mine, positions=None)
    dist.barrier()
    torch.save(
        dict(
            moments={{k: tuple(v) for k, v in found.items()}},
            samples=found.samples,
            alone=(list(alone), alone.samples),
            weights=[better[i].weight.detach() for i in (0, 3, 6)],
        ),
        f"{{sys.argv[1]}}/{{rank}}.pt",
    )
    dist.destroy_process_group()
"""
RANKS = {"0": 2, "3": 1, "6": 2}


def halves(rank):
    """What each of two processes reads: not equally much."""
    generator = torch.Generator().manual_seed(rank)
    first = [torch.randn(n, 2, 5, 5, generator=generator).double() for n in ((8, 4), (5,))[rank]]
    return first, 20 + torch.rand(3, 3, generator=generator)


def test_two_processes_sum_what_they_saw(tmp_path):
    script = tmp_path / "work.py"
    text = WORK.format(tests=str(ROOT / "tests"), source=str(ROOT / "src"), ranks=RANKS)
    script.write_text(textwrap.dedent(text))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{i}.pt", weights_only=True) for i in (0, 1))
    torch.manual_seed(0)
    model, shares = settled(), [halves(0)[0], halves(1)[0]]
    every = [x for share in shares for x in share]
    whole = calibrate(model, every, positions=None)
    parts = [calibrate(model, share, positions=None) for share in shares]
    total = {}
    for name, moments in whole.items():
        inputs, outputs, rows = first["moments"][name]
        close(inputs, moments.inputs, 10**3)
        # each process draws its own noise, from the same seed
        want = sum(part[name].outputs * part.samples for part in parts) / whole.samples
        close(outputs, want, 10**3)
        assert rows == moments.rows
        assert torch.equal(second["moments"][name][0], inputs)
        total[name] = moments._replace(inputs=inputs, outputs=outputs)
    assert first["samples"] == second["samples"] == whole.samples == 17
    # one process had no batch at all
    assert first["alone"] == second["alone"] == (["right", "head"], 3)
    low = lorank.decompose(model, RANKS, calibration=Calibration(total, samples=17))
    better = lorank.reconstruct(low, model, every, positions=None)
    for at, a, b in zip((0, 3, 6), first["weights"], second["weights"], strict=True):
        assert torch.equal(a, b)
        want = better[at].weight.detach()
        assert float((a - want).norm()) <= 1e-8 * float(want.norm())  # roots of Gram matrices
        assert float((low[at].weight - want).norm()) > 1e-3 * float(want.norm())


@pytest.mark.parametrize("positions", [0, -1, 1.5, "all", True])
def test_positions_are_a_whole_number(positions):
    with pytest.raises(LorankError, match="positions must be a whole number of at least 1"):
        lorank.calibrate(nn.Linear(2, 2), [torch.ones(1, 2)], positions=positions)


def test_skipping_every_layer_is_said():
    with pytest.raises(LorankError, match="layers or skip leave none"):
        lorank.calibrate(nn.Linear(2, 2), [torch.ones(1, 2)], skip=["*"])


def test_patches_too_large_for_a_moment_keep_their_power(monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    x = torch.randn(64, 12).double()
    whole = lorank.calibrate(net, [x])
    for room in ("calibrate", "reconstruct"):
        monkeypatch.setattr(sys.modules[f"lorank.compression.{room}"], "LARGEST", 8)
    seen = lorank.calibrate(net, [x[:32], x[32:]])
    assert seen["0"].inputs.shape == (1, 1, 1) and seen["2"].inputs.shape == (1, 6, 6)
    power = whole["0"].inputs.diagonal(dim1=-2, dim2=-1).mean()
    torch.testing.assert_close(seen["0"].inputs.squeeze(), power)
    ranks = {"0": 2, "2": 2}
    low = lorank.decompose(net, ranks, calibration=seen)
    walked = lorank.reconstruct(low, net, [x], calibration=seen)
    assert torch.equal(walked[0].weight, low[0].weight)
    assert not torch.equal(walked[2].weight, low[2].weight)
