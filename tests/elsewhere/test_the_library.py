"""What a function of lorank gives on another device: the CPU's values, and there.

A case builds its input on the CPU by a seed, moves it, and returns what to compare. Where a result
is the same in a class of factors (signs, unit quaternions), the case returns what they make.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lorank
from lorank import colour, compression, linalg, penalties
from lorank.bayes import collapsed
from lorank.compression import latency
from lorank.localization import RULES as DECISIONS
from lorank.localization import View, Volume, decide, new_finder, project
from lorank.ranks import RULES
from lorank.structured import InputTask, OutputTask, Regularizers
from lorank.structured.fit import Plan, fit
from lorank.training.optimizers import make_optimizer
from lorank.training.recipe import Optimizer
from lorank.training.schedule import SVDSchedule

Device = torch.device
CPU = Device("cpu")
CASES: dict[str, Callable[[Device], Any]] = {}


def case(function: Callable[[Device], Any]) -> Callable[[Device], Any]:
    CASES[function.__name__] = function
    return function


def drawn(device: Device, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device)


def network(device: Device) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    layers += [nn.Conv2d(8, 12, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(12, 12, 1)]
    layers += [nn.Flatten(), nn.Linear(192, 20), nn.ReLU(), nn.Linear(20, 5)]
    return nn.Sequential(*layers).double().eval().to(device)


def image(device: Device) -> Tensor:
    return drawn(device, 1, 3, 8, 8)


def batches(device: Device) -> list[Tensor]:
    return [drawn(device, 6, 3, 8, 8), drawn(device, 5, 3, 8, 8)]


def values(model: nn.Module) -> list[Tensor]:
    return [value for value in model.state_dict().values() if value.is_floating_point()]


def gradients(model: nn.Module) -> list[Tensor]:
    """Those that are there: a GPU refuses a gradient of another place than its parameter's."""
    moved = [p for p in model.parameters() if p.grad is not None]
    assert all(p.grad.device == p.device for p in moved)
    return [p.grad for p in moved]


@case
def svd_form_and_plain(device):
    model, x = network(device), batches(device)[0]
    low = lorank.decompose(model, {"0": 3, "3": 4, "7": 6})
    return low(x), lorank.fold(low, example=image(device))(x)


@case
def pruned(device):
    model = network(device)
    ranks = lorank.ranks.budget(lorank.measure(model, image(device)), macs=0.5)
    return lorank.prune(lorank.decompose(model), ranks)(batches(device)[0])


@case
def calibrated_and_solved_again(device):
    model = network(device)
    moments = lorank.calibrate(model, batches(device))
    spectra = lorank.measure(model, image(device), layout="auto", calibration=moments)
    layouts = {name: spectrum.layout for name, spectrum in spectra.items()}
    ranks = lorank.ranks.budget(spectra, macs=0.5)
    low = lorank.decompose(model, ranks, layout=layouts, calibration=moments)
    low = lorank.reconstruct(low, model, batches(device), calibration=moments)
    return low(batches(device)[0])


@case
def ranks_by_trials(device):
    model = network(device)
    spectra = lorank.measure(model, image(device))
    spectra = lorank.sensitivity(model, spectra, batches(device))
    return lorank.prune(lorank.decompose(model), lorank.ranks.budget(spectra, params=0.4))(
        batches(device)[0]
    )


@case
def statistics_of_batchnorm(device):
    return values(lorank.recalibrate(network(device), batches(device)))


@case
def clipped(device):
    return values(lorank.clip(network(device), 1.0).model)


@case
def attention(device):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
    model = lorank.decompose(layer.double().eval().to(device))
    lorank.penalty(model, orthogonality=1.0, sparsity=1.0).backward()
    x, found = drawn(device, 2, 5, 16), gradients(model)
    ranks = {n: 3 for n, m in model.named_modules() if isinstance(m, lorank.nn.Factored)}
    return model(x), lorank.fold(lorank.prune(model, ranks))(x), *found


@case
def embedding(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8)).double().to(device)
    return lorank.decompose(model, {"0": 3})(torch.arange(5, device=device))


@case
def quaternion_layers(device):
    torch.manual_seed(0)
    layers = [lorank.nn.QuaternionLinear(8, 12), nn.ReLU(), lorank.nn.QuaternionLinear(12, 8)]
    model = lorank.decompose(nn.Sequential(*layers).double().to(device), {"0": 2})
    x = drawn(device, 3, 8)
    return model(x), lorank.fold(model)(x)


@case
def penalties_and_gradients(device):
    model = lorank.decompose(network(device))
    total = lorank.penalty(model, orthogonality=1.0, sparsity=0.1, operator_norm=0.1)
    total.backward()
    return total, *gradients(model)


@case
def class_invariance(device):
    classes = torch.arange(10, device=device) % 3
    return penalties.class_invariance(drawn(device, 10, 6), classes)


@case
def step_of_muon(device):
    model = lorank.decompose(network(device))
    optimizer = make_optimizer(model, Optimizer(name="muon", lr=0.01))
    model(batches(device)[0]).square().mean().backward()
    optimizer.step()
    return values(model)


@case
def svd_by_products(device):
    A = drawn(device, 14, 9)
    U, S, Vh = linalg.randomized_svd(A, 3)
    return linalg.singular_values(A), linalg.gram_singular_values(A), (U * S) @ Vh


@case
def bracket_of_a_norm(device):
    low, high = linalg.norm_bracket(drawn(device, 5, 4, 3, 3))[:2]
    return torch.as_tensor(low), torch.as_tensor(high)


@case
def collapsed_posterior(device):
    return torch.as_tensor(collapsed(linalg.singular_values(drawn(device, 14, 9)), (14, 9)).shrunk)


@case
def quaternion_svd(device):
    A = drawn(device, 12, 8, 4)
    found = [
        linalg.qsvd(A),
        linalg.randomized_qsvd(A, 3, random_state=0),
        linalg.qsvd_krylov(A, 3, random_state=0),
        linalg.qsvd_adaptive(A, 1e-3, random_state=0)[:3],
    ]
    return [linalg.qmatmul(U * S[:, None], Vh) for U, S, Vh in found]


@case
def quaternion_solvers(device):
    A, b = drawn(device, 12, 4, 4), drawn(device, 12, 2, 4)
    return linalg.qlstsq(A, b), linalg.qpinv(A), linalg.qtls(A, b, 4), linalg.qnorm(A)


@case
def denoised_picture(device):
    return torch.as_tensor(colour.denoise(drawn(device, 16, 16, 3).sigmoid(), 0.1))


@case
def convolutions_of_all_kinds(device):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(4, 8, 3, groups=2, dilation=2, padding_mode="circular", padding=2),
        lorank.nn.QuaternionConv2d(8, 8, 3),
        nn.ConvTranspose2d(8, 6, 3, stride=2),
        nn.Flatten(2),
        nn.Conv1d(6, 5, 3, padding=1),
        nn.Unflatten(2, (1, 15, 15)),
        nn.Conv3d(5, 4, (1, 3, 3)),
    ]
    model = lorank.decompose(nn.Sequential(*layers).double().to(device))
    lorank.penalty(model, orthogonality=1.0, sparsity=1.0).backward()
    x = drawn(device, 2, 4, 9, 9)
    ranks = {n: 2 for n, m in model.named_modules() if isinstance(m, lorank.nn.Factored)}
    low = lorank.prune(model, ranks)
    return model(x), low(x), lorank.fold(low, example=x)(x), *gradients(model)


@case
def structured_outputs(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    model = model.double().to(device)
    whole = Regularizers(model, {"out": OutputTask(["4"], 0.5, code="3")})
    x, y = drawn(device, 24, 6), drawn(device, 24, 3)
    y[0, 0] = torch.nan
    done = fit(whole, x, y, Plan(epochs=2), y_only=drawn(device, 9, 3), valid=(x, y))
    return torch.tensor(done.losses).to(device), *values(model)


@case
def offsets_of_windows(device):
    torch.manual_seed(0)
    finder = new_finder("offset_net", View(rows=32, columns=8), width=4)
    finder.network.to(device)
    scan = Volume(1000 * torch.eye(4)[..., None].repeat(1, 1, 60).numpy(), (1, 1, 1), "RAS")
    return finder.curve(project(scan, finder.view), step=4)[0]


@case
def calibrated_there_and_cut_here(device):
    moments = lorank.calibrate(network(device), batches(device))
    model, here = network(CPU), batches(CPU)
    spectra = lorank.measure(model, layout="channel", calibration=moments)
    ranks = lorank.ranks.budget(spectra, params=0.5)
    low = lorank.decompose(model, ranks, layout="channel", calibration=moments)
    again = lorank.reconstruct(low, model, here, calibration=moments)
    cut = lorank.prune(lorank.decompose(model), dict.fromkeys(ranks, 2), calibration=moments)
    return [net(here[0]).to(device) for net in (low, again, cut)]


@case
def masks_of_a_generator_of_the_cpu(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    masks = torch.Generator().manual_seed(0)
    terms = {
        "in": InputTask(["0", "1"], 1.0, generator=masks),
        "out": OutputTask(["2"], 1.0, noise=0.1, generator=masks),
    }
    whole = Regularizers(model, terms).to(device)
    return whole(drawn(device, 5, 6), drawn(device, 5, 3))[0]


@case
def filled_picture(device):
    known = (drawn(device, 12, 12) > -0.5).cpu()
    picture = drawn(device, 12, 12, 3).sigmoid()
    return colour.inpaint(picture, known.to(device)), colour.inpaint(picture, known)


@case
def sketched_in_pieces(device):
    A, sketch = drawn(device, 12, 8, 4), linalg.QuaternionSketch((12, 8), 3, random_state=0)
    for rows in A.split(5):
        sketch.update(rows)
    U, S, Vh = sketch.finalize()
    return linalg.qmatmul(U * S[:, None], Vh)


@case
def penalties_in_a_callback(device):
    schedule = SVDSchedule(sparsity=0.1, macs=0.5, cut_at=0.5, ramp=0.0, example=image(CPU))
    model = lorank.decompose(network(device))
    found = schedule.before_step(model, 0.25)
    assert schedule.after_epoch(model, 0.5, [])
    return found["orthogonality"], found["sparsity"], model(batches(device)[0])


@case
def saved_and_read(device):
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.safetensors"
        lorank.save(lorank.decompose(network(device), {"0": 3}), path)
        return lorank.load(path, network(device))(batches(device)[0])


NUMBERS = {"bracket_of_a_norm", "offsets_of_windows"}
"""Cases whose results are numbers, which lie on the CPU."""


def compared(name: str, device: Device) -> list[Tensor]:
    found = CASES[name](device)
    found = [found] if isinstance(found, Tensor) else list(found)
    assert found
    assert all(isinstance(value, Tensor) and value.isfinite().all() for value in found)
    place = CPU if name in NUMBERS else device
    assert {value.device for value in found} == {place}
    return [value.detach().cpu() for value in found]


@pytest.mark.parametrize("name", CASES)
def test_a_function_has_the_cpus_values_there(name, there):
    wanted, found = (compared(name, device) for device in (CPU, there))
    assert len(wanted) == len(found)
    for a, b in zip(wanted, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


SETTINGS = {
    "energy": {"keep": 0.9},
    "threshold": {"relative": 0.3},
    "params": {"target": 0.5},
    "macs": {"target": 0.5},
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_chooses_the_same_ranks_there(rule, there):
    def chosen(device):
        return RULES[rule](lorank.measure(network(device), image(device)), **SETTINGS.get(rule, {}))

    assert chosen(there) == chosen(CPU)


@pytest.mark.parametrize("kind", penalties.SPARSITY)
def test_a_sparsity_is_the_same_there(kind, there):
    def found(device):
        return lorank.penalty(lorank.decompose(network(device)), sparsity=1.0, kind=kind).item()

    assert found(there) == pytest.approx(found(CPU), rel=1e-12)


@pytest.mark.parametrize("bound", linalg.BOUNDS)
def test_a_bound_and_its_gradient_are_the_same_there(bound, there):
    def found(device):
        kernel = drawn(device, 5, 4, 3, 3).requires_grad_()
        value = linalg.operator_norm_bound(kernel, bound)
        value.backward()
        assert kernel.grad.device == device
        return torch.cat([value.detach().cpu().reshape(1), kernel.grad.cpu().flatten()])

    torch.testing.assert_close(found(there), found(CPU), rtol=1e-9, atol=1e-12)


METHODS = ["exact", "leading", "circular", "coarse", "quantile", "energy", "extrapolated", "auto"]


@pytest.mark.parametrize("method", METHODS)
def test_singular_values_of_a_convolution_are_the_same_there(method, there):
    def found(device):
        kernel = drawn(device, 5, 4, 3, 3)
        return linalg.operator_singular_values(kernel, (8, 8), method=method).values.cpu()

    torch.testing.assert_close(found(there), found(CPU), rtol=1e-9, atol=1e-12)


def test_the_whole_network_is_looked_at_there(there):
    def found(device):
        model, example = network(device), image(device)
        table = compression.operators(model, example)
        bound = compression.lipschitz(model, example).constant
        errors = compression.cut_errors(model, {"0": 3}, example)
        return len(table), pytest.approx(float(bound)), list(errors)

    assert found(there) == found(CPU)


@pytest.mark.parametrize("rule", DECISIONS)
def test_a_curve_is_decided_on_wherever_it_lies(rule, there):
    curve = 20.0 - torch.arange(50.0)
    wanted, found = (decide(x, 0, 1, 50, 10, rule=rule).row for x in (curve, curve.to(there)))
    assert found == wanted


def test_each_model_and_function_is_waited_for(there, monkeypatch):
    waited = []
    monkeypatch.setattr(latency, "wait", lambda device: waited.append(device))
    model, x = network(there), image(there)
    latency.latency({"model": model}, x, repeats=2, warmup=0)
    latency.latency({"bound": lambda: model(x)}, (), repeats=2, warmup=0, device=there)
    assert waited == 8 * [there]
