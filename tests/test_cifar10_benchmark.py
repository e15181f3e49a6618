"""The methods of the CIFAR-10 benchmark: they train, resume, and end within their budgets."""

import dataclasses
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import lorank
from lorank.errors import LorankError, MissingExtraError
from lorank.zoo import load_model
from lorank.zoo.resnet import CifarResNet

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
IMAGES, SIDE = 24, 16
PACKAGES = {"aimet": "aimet_torch", "pat": "torchao", "channel_pruning": "torch_pruning"}


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The benchmarks as modules, and their folder out of the path again."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def job_of(use, *, budget=0.4, epochs=2, dense=None, **options):
    """An experiment on a few random images."""
    from cifar10.data import PAD, Cifar, Part
    from cifar10.job import Job
    from cifar10.plan import Experiment

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, SIDE, SIDE), generator=generator).to(torch.uint8)
    part = Part(images, torch.arange(IMAGES) % 10, torch.arange(IMAGES))
    cifar = Cifar(part, part, part, F.pad(images, (PAD,) * 4))
    experiment = Experiment.model_validate(
        {
            "suite": "test",
            "network": "resnet8",
            "method": use,
            "budget": budget,
            "seed": 0,
            "use": use,
            "options": options,
            "schedule": {"epochs": epochs, "batch": 12, "optimizer": {"lr": 0.01}},
        }
    )
    torch.manual_seed(0)
    dense = load_model("resnet8") if dense is None else dense
    return Job(experiment, dense.eval(), cifar, torch.zeros(1, 3, SIDE, SIDE))


def method_of(job):
    from cifar10.methods import METHODS

    use = job.experiment.use
    needed = PACKAGES.get(use)
    if needed is not None and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    return METHODS[use](**job.experiment.options)


def fitted(job, folder):
    from cifar10.loop import fit

    return fit(job, method_of(job), folder / "run", folder / "teachers", compiled=False)


def settled(network):
    """With BatchNorm statistics that are not the fresh ones."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return network


def share_of(job, model):
    return lorank.cost(model.eval(), job.example).macs / lorank.cost(job.dense, job.example).macs


PAPER = {
    "scratch": True,
    "layout": "channel",
    "ranks": "weights",
    "steps": 1,
    "by": "raw",
    "rule": "energy",
}
OURS = [
    pytest.param("svd", {"sparsify": 0.0}, marks=pytest.mark.slow),
    pytest.param("svd", {"sparsify": 0.0, "plain": True}, marks=pytest.mark.slow),
    pytest.param("svd", {"sparsify": 0.5, "steps": 1}, marks=pytest.mark.slow),
    ("svd", {"sparsify": 0.5, "steps": 1, "plain": True}),
    ("svd", {"sparsify": 0.0, "plain": True, "ranks": "trials", "renormed": True}),
    ("svd", {"sparsify": 0.5, "steps": 4}),
    ("svd", {"sparsify": 1.0, "steps": 2, "ranks": "weights", "by": "raw", "kind": "l1"}),
    ("svd", {"sparsify": 0.5, "form": "dense", "layout": "channel"}),
    ("svd", {**PAPER, "sparsify": 0.5}),
]
RIVALS = [
    ("truncation", {"layout": "channel"}),
    ("truncation", {"layout": "spatial"}),
    ("trp", {"layout": "channel", "every": 1, "share": 0.5}),
    ("trp", {"layout": "spatial", "share": 1.0}),
    ("tucker", {}),
    ("channel_pruning", {}),
    ("channel_pruning", {"across": True}),
    ("aimet", {"images": 16}),
    ("pat", {"every": 1}),
    ("narrow", {}),
    ("narrow", {"depth": 14}),
]


@pytest.mark.parametrize(("use", "options"), OURS + RIVALS)
def test_a_method_ends_within_its_budget_stopped_on_the_way_or_not(use, options, tmp_path):
    """Killed whenever the state of an epoch is kept: each time another process goes on."""
    from cifar10 import loop

    job = job_of(use, **options)
    before = {name: value.clone() for name, value in job.dense.state_dict().items()}
    whole, progress = fitted(job, tmp_path / "whole")
    assert progress.epoch == 2
    # AIMET chooses by the accuracy on a few images, of which an untrained network says little
    assert (0.1 if use == "aimet" else 0.3) < share_of(job, whole) <= 0.4
    assert not any(isinstance(m, lorank.nn.Factored) for m in whole.modules())
    assert all(torch.equal(v, before[n]) for n, v in job.dense.state_dict().items())

    keep = loop._keep

    def killed(*args):
        keep(*args)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_keep", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                fitted(job_of(use, **options), tmp_path / "parts")
    parts, progress = fitted(job_of(use, **options), tmp_path / "parts")
    assert progress.epoch == 2
    x = torch.randn(4, 3, SIDE, SIDE)
    with torch.no_grad():
        found, wanted = (m.eval()(x) for m in (parts, whole))
    assert found.isfinite().all()
    # SVDs and products are repeated in float32 after a stop, and training carries the rounding on
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_the_published_protocol_starts_from_weights_drawn_anew():
    job = job_of("svd", **PAPER)
    torch.manual_seed(1)
    model = method_of(job).begin(job)
    layer = model.layer1[0].conv1
    assert layer.rank == min(layer.weight.flatten(1).shape)
    assert not torch.allclose(layer.weight, job.dense.layer1[0].conv1.weight, atol=0.1)
    U = layer.U.detach().double()
    eye = torch.eye(layer.rank, dtype=torch.float64)
    torch.testing.assert_close(U.mT @ U, eye, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["channel", "spatial"])
def test_factors_by_weights_are_the_truncated_weights_at_the_ranks_of_the_data(layout):
    from lorank.nn import SVDConv

    def pairs(**changed):
        job = job_of("svd", sparsify=0.0, plain=True, layout=layout, **changed)
        named = method_of(job).begin(job).named_modules()
        return job, {n: m for n, m in named if isinstance(m, lorank.nn.Pair)}

    def ranks(found):
        return {name: pair[0].out_channels for name, pair in found.items()}

    job, ours = pairs()
    _, by_data = pairs(factors="data", rebuilt=False)
    _, by_weights = pairs(ranks="weights")
    assert ranks(ours) == ranks(by_data) != ranks(by_weights)
    for name, rank in ranks(ours).items():
        weight = job.dense.get_submodule(name).weight.detach().double()
        view = SVDConv.unfold(job.dense.get_submodule(name), layout)
        S = torch.linalg.svdvals(view.matrix(weight))
        best = float(S[..., rank:].norm())
        first, second = (
            float((found[name].product().detach().double() - weight).norm())
            for found in (ours, by_data)
        )
        assert first == pytest.approx(best, rel=1e-4)
        assert second > best * (1 + 1e-4)


def test_a_source_that_is_none_is_refused():
    job = job_of("svd", factors="wieghts")
    with pytest.raises(LorankError, match="wieghts"):
        method_of(job)
    with pytest.raises(LorankError, match=r"trials .* sparsify=0\.25"):
        method_of(job_of("svd", ranks="trials"))


def test_statistics_estimated_anew_are_those_of_the_calibration_images():
    job = job_of("svd", sparsify=0.0, plain=True, renormed=True)
    method = method_of(job)
    model = method.begin(job)
    kept = model.bn1.running_mean.clone()
    found = method.end(job, model).bn1
    with torch.no_grad():
        read = torch.cat([model.conv1(images) for images in job.calibration()])
    assert not torch.allclose(kept, found.running_mean)
    torch.testing.assert_close(found.running_mean, read.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_an_experiment_starts_from_the_network_of_its_base(tmp_path):
    from cifar10.run import started

    job = job_of("dense", budget=1.0)
    experiment = job.experiment.model_copy(update={"base": "base/resnet8/scratch/1/0"})
    with pytest.raises(SystemExit, match="run that first, --again"):
        started(experiment, tmp_path)
    (tmp_path / experiment.base).mkdir(parents=True)
    lorank.save(job.dense, tmp_path / experiment.base / "model.safetensors")
    found = started(experiment, tmp_path).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in job.dense.state_dict().items())


def test_every_base_of_the_plan_is_an_experiment_of_it():
    from cifar10.plan import experiments

    rows = experiments()
    assert {row.base for row in rows if row.base} <= {row.name for row in rows}


def test_published_networks_of_another_repository_are_read_under_the_zoos_names(
    tmp_path, monkeypatch
):
    from cifar10.published import pretrained
    from cifar10.teachers import merged

    monkeypatch.setenv("LORANK_DATA", str(tmp_path))
    torch.manual_seed(0)
    own = settled(load_model("resnet20", shortcut="B")).state_dict()
    names = {n: n.replace(".shortcut.", ".downsample.").replace("linear.", "fc.") for n in own}
    folder = tmp_path / "pytorch_cifar_models"
    folder.mkdir()
    torch.save({names[n]: value for n, value in own.items()}, folder / "cifar10_resnet20.pth")
    found = pretrained("resnet20-b")
    assert sum(n != names[n] for n in own) > 10
    assert not found.training
    assert all(torch.equal(value, own[n]) for n, value in found.network.state_dict().items())
    found = found.double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    before = found(images)
    fused = merged(found)
    assert sum(isinstance(m, torch.nn.Identity) for m in fused.modules()) >= 19
    torch.testing.assert_close(fused(images), before, rtol=1e-10, atol=1e-10)


def test_networks_standardised_otherwise_see_the_pixels_that_they_were_trained_on():
    from cifar10.published import Restandardised
    from lorank.zoo.cifar import MEAN, STD

    def standardised(pixels, mean, std):
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = Restandardised(torch.nn.Identity(), mean, std)(standardised(pixels, MEAN, STD))
    # Some five roundings of values up to (1 − mean) / std < 4.
    eps = torch.finfo(torch.float32).eps
    torch.testing.assert_close(found, standardised(pixels, mean, std), rtol=0, atol=5 * 4 * eps)


def test_a_published_network_whose_file_is_missing_is_named(tmp_path, monkeypatch):
    from cifar10.published import pretrained

    monkeypatch.setenv("LORANK_DATA", str(tmp_path))
    with pytest.raises(LorankError, match=r"no weights file .*cifar10_resnet20\.pth"):
        pretrained("resnet20-b")
    with pytest.raises(LorankError, match="published network"):
        pretrained("resnet21-b")


def part_of(job, some):
    """The job, trained on some of its images and judged on the others."""
    from cifar10.data import Part

    whole = job.cifar.whole
    others = torch.tensor([p for p in range(IMAGES) if p not in some.tolist()])
    train, judge = (Part(*(t[places] for t in whole)) for places in (some, others))
    return dataclasses.replace(job, cifar=job.cifar._replace(train=train, judge=judge))


def test_images_are_mixed_with_images_that_are_trained_on_alone():
    from cifar10.data import seen_images, view

    job = part_of(job_of("dense"), torch.arange(0, IMAGES, 3))
    train = job.cifar.train
    seen = [view(number, 0.5, train.places) for number in range(3)]
    for one in seen:
        assert sorted(one.partner[train.places].tolist()) == train.places.tolist()
    assert not torch.equal(seen[0].partner, seen[1].partner)
    before = seen_images(job.cifar, train.places, seen[0])
    job.cifar.padded[job.cifar.judge.places] = 0
    assert torch.equal(seen_images(job.cifar, train.places, seen[0]), before)
    whole = view(0, 0.5, torch.arange(IMAGES), IMAGES)
    assert sorted(whole.partner.tolist()) == list(range(IMAGES))


@pytest.mark.parametrize("mix", [0.0, 0.5])
def test_a_teachers_answers_on_mixed_images_belong_to_the_part(mix, tmp_path, monkeypatch):
    from cifar10 import teachers
    from cifar10.data import seen_images, view

    torch.manual_seed(0)
    network = load_model("resnet8").eval()
    monkeypatch.setattr(teachers, "pretrained", lambda _: network)
    files = []
    for some in (torch.arange(0, IMAGES, 3), torch.arange(1, IMAGES, 3), torch.arange(IMAGES)):
        job = part_of(job_of("dense"), some) if len(some) < IMAGES else job_of("dense")
        said = teachers.Teachers("resnet8", job.cifar, mix, tmp_path)(0)
        with torch.no_grad():
            asked = network(seen_images(job.cifar, some, view(0, mix, some)))
        assert said.shape == (IMAGES, 10)
        torch.testing.assert_close(said[some], asked.half().float(), rtol=2e-3, atol=2e-3)
        elsewhere = torch.ones(IMAGES, dtype=torch.bool).index_fill(0, some, False)
        assert bool(said[elsewhere].isnan().all()) is bool(mix) or len(some) == IMAGES
        files.append(len(list(tmp_path.iterdir())))
    assert files == ([1, 2, 3] if mix else [1, 1, 1])


def test_every_teacher_and_published_start_of_the_plan_is_known():
    from cifar10.plan import experiments
    from cifar10.published import PUBLISHED

    rows = experiments()
    teachers = {row.schedule.teacher for row in rows if row.schedule.teacher}
    assert {name for names in teachers for name in names.split("+")} <= PUBLISHED.keys()
    assert {row.network for row in rows if row.network.endswith("-b")} <= PUBLISHED.keys()


@pytest.mark.parametrize("use", ["truncation", "trp", "tucker", "pat"])
def test_a_budget_below_rank_one_is_refused(use):
    job = job_of(use, budget=0.001)
    with pytest.raises(LorankError, match=r"0\.001 of the MACs"):
        method_of(job).begin(job)


@pytest.mark.parametrize("layout", ["channel", "spatial"])
@pytest.mark.parametrize("use", ["truncation", "trp"])
def test_all_macs_leave_the_function_alone(use, layout):
    job = job_of(use, budget=1.0, layout=layout, dense=load_model("resnet8").double())
    job = job_with_double_example(job)
    model = method_of(job).begin(job)
    x = torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64)
    torch.testing.assert_close(model(x), job.dense(x), rtol=1e-10, atol=1e-10)


def job_with_double_example(job):
    from cifar10.job import Job

    return Job(job.experiment, job.dense, job.cifar, job.example.double())


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1}, {"bias": True}])
def test_tucker_at_full_ranks_is_the_convolution(settings):
    from cifar10.methods.tucker import Modes, thin

    conv = torch.nn.Conv2d(6, 9, 3, dtype=torch.float64, **settings)
    x = torch.randn(2, 6, 10, 10, dtype=torch.float64)
    torch.testing.assert_close(
        thin(conv, Modes(9, 6), sweeps=2)(x), conv(x), rtol=1e-11, atol=1e-11
    )
    low = thin(conv, Modes(8, 6), sweeps=2)(x)
    assert (low - conv(x)).abs().max() > 1e-3  # one rank less is seen


def test_tucker_finds_an_exact_decomposition_and_sweeps_help():
    from cifar10.methods.tucker import Modes, tucker2

    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    exact = torch.einsum("pqhw,np,cq->nchw", drawn(3, 2, 3, 3), drawn(10, 3), drawn(8, 2))
    noisy = exact + 0.7 * drawn(10, 8, 3, 3)

    def error(kernel, sweeps):
        outer, core, inner = tucker2(kernel, Modes(3, 2), sweeps)
        return float((torch.einsum("pqhw,np,cq->nchw", core, outer, inner) - kernel).norm())

    assert error(exact, 0) < 1e-12 * float(exact.norm()) * 10
    assert error(noisy, 3) < error(noisy, 0)


def test_tucker_counts_the_macs_that_its_layers_have():
    from cifar10.methods.tucker import Modes, thin, thin_macs

    conv = torch.nn.Conv2d(6, 9, 3, stride=2, padding=1)
    x = torch.zeros(1, 6, 12, 12)
    counted = lorank.cost(thin(conv, Modes(4, 3), 0), x).macs
    assert thin_macs(conv, Modes(4, 3), 144, 36) == counted


def test_trp_adds_the_gradient_of_the_nuclear_norm():
    job = job_of("trp", budget=1.0, nuclear=1.0)
    method = method_of(job)
    model = method.begin(job)
    method.penalty(job, model, 0.0).backward()
    weight = model.layer1[0].conv1.weight
    U, _, Vh = torch.linalg.svd(weight.detach().flatten(1), full_matrices=False)
    torch.testing.assert_close(weight.grad.flatten(1), U @ Vh, rtol=1e-4, atol=1e-4)
    flat = weight.detach().flatten(1).requires_grad_()
    (nuclear,) = torch.autograd.grad(torch.linalg.matrix_norm(flat, "nuc"), flat)
    torch.testing.assert_close(weight.grad.flatten(1), nuclear, rtol=1e-4, atol=1e-4)


def test_trp_truncates_while_it_trains(tmp_path):
    job = job_of("trp", budget=0.3, every=1)
    method = method_of(job)
    model = method.begin(job)
    ranks = method.truncate(job, model)
    name, layer = "layer2.0.conv2", model.layer2[0].conv2
    assert torch.linalg.matrix_rank(layer.weight.flatten(1), rtol=1e-5) == ranks[name] < 32
    with torch.no_grad():
        layer.weight.add_(torch.randn_like(layer.weight))
    assert torch.linalg.matrix_rank(layer.weight.flatten(1), rtol=1e-5) == 32
    method.after_step(job, model, 1)
    assert torch.linalg.matrix_rank(layer.weight.flatten(1), rtol=1e-5) < 32


def test_pat_leaves_weights_of_the_ranks_that_it_decomposes_at(tmp_path):
    from cifar10.methods import pat

    seen = {}

    class Watched(pat.PAT):
        def _cut(self, job, model):
            seen.update({n: m.weight.detach().clone() for n, m in pat.convolutions(model).items()})
            return super()._cut(job, model)

    job = job_of("pat", every=2, share=1.0)
    method_of(job)
    from cifar10.loop import fit

    method = Watched(**job.experiment.options)
    fit(job, method, tmp_path / "run", tmp_path / "teachers", compiled=False)
    assert set(seen) == set(method.ranks)
    for name, weight in seen.items():
        assert torch.linalg.matrix_rank(weight.flatten(1), rtol=1e-5) == method.ranks[name]


def test_slim_networks_are_the_zoos_at_whole_widths():
    from cifar10.methods.narrow import slim

    model = slim(14, 8.0)
    assert [p.shape for p in model.parameters()] == [
        p.shape for p in CifarResNet(14, width=8).parameters()
    ]


def test_depth_of_the_pretrained_network_is_kept_by_narrowing():
    job = job_of("narrow", dense=CifarResNet(14))
    model = method_of(job).begin(job)
    assert len(model.layer1) == 2
    assert 0.35 < share_of(job, model) <= 0.4


@pytest.mark.parametrize("use", PACKAGES)
def test_a_missing_package_is_named_in_one_sentence(use, monkeypatch):
    from cifar10.methods import METHODS

    for name in [*sys.modules]:
        if name.split(".")[0] == PACKAGES[use]:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None) if use == "aimet" else None

    class Nowhere:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == PACKAGES[use]:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Nowhere(), *sys.meta_path])
    job = job_of(use)
    with pytest.raises(MissingExtraError, match="which is not installed") as caught:
        METHODS[use](**job.experiment.options).begin(job)
    assert os.linesep not in str(caught.value)


def test_every_method_of_the_plan_is_made_by_its_settings():
    from cifar10.methods import METHODS
    from cifar10.plan import experiments

    rows = experiments()
    assert {row.use for row in rows} <= set(METHODS)
    for row in rows:
        METHODS[row.use](**row.options)


def test_a_suites_page_has_the_best_row_first_and_commands_that_are_in_the_plan():
    import fnmatch

    from cifar10.plan import experiments
    from cifar10.table import grouped, suite_text

    def row(method, seed, accuracy):
        return {
            "experiment": f"brief/resnet20/{method}/0.28/{seed}",
            "accuracy": accuracy,
            "macs_share": 0.28,
            "params_share": 0.3,
            "epochs": 3,
            "minutes": 5.0,
            "device": "CPU",
            "threads": 1,
            "torch": "2",
            "judged_on": "test images",
            "precision": "bfloat16",
        }

    found = [row("tucker", 0, 0.8), row("plain", 0, 0.90), row("plain", 1, 0.92)]
    text = suite_text("brief", {"title": "T", "against": "tucker"}, grouped(found)["brief"])
    lines = [line for line in text.splitlines() if line.startswith("| resnet20")]
    assert [line.split(" | ")[4].strip() for line in lines] == ["+10.00", ""]  # of the common seed
    assert [line.split(" | ")[2] for line in lines] == ["plain", "tucker"]
    assert "91.00 ± 12.71" in lines[0]  # t(0.975, 1 degree of freedom) = 12.706
    (pattern,) = re.findall(r"`OMP_NUM_THREADS=1 .*? --bfloat16 --again '(.*?)'` makes all", text)
    assert any(fnmatch.fnmatch(e.name, pattern) for e in experiments())


def test_rows_that_started_from_other_networks_are_not_paired():
    from cifar10.table import paired

    def row(method, accuracy, start, base="base/resnet8/scratch/1/0", device="CPU"):
        name = f"ablation/resnet8/{method}/0.28/0"
        place = {"device": device, "precision": "bfloat16"}
        return {"experiment": name, "accuracy": accuracy, "start": start, "base": base, **place}

    assert paired([row("raw", 0.63, "a")], [row("all", 0.64, "a")]) == "-1.00"
    assert paired([row("raw", 0.63, "a")], [row("all", 0.64, "b")]) == ""
    assert paired([row("raw", 0.63, "a", device="a GPU")], [row("all", 0.64, "a")]) == ""


def test_a_start_is_named_by_all_that_it_holds():
    from cifar10.run import digest

    torch.manual_seed(0)
    network = load_model("resnet8")
    found = digest(network)
    assert digest(network.to(memory_format=torch.channels_last)) == found
    network.bn1.running_mean[0] += 1
    assert digest(network) != found


@pytest.mark.parametrize(
    ("device", "precision", "words"),
    [
        ("CPU", "float32", "OMP_NUM_THREADS=2 {run} --device cpu a/b"),
        ("CPU", "bfloat16", "OMP_NUM_THREADS=2 {run} --device cpu --bfloat16 a/b"),
        ("a GPU", "bfloat16", "{run} --device cuda a/b"),
        ("a GPU", "float32", "{run} --device cuda --no-bfloat16 a/b"),
    ],
)
def test_a_rows_command_has_its_device_and_precision(device, precision, words):
    from cifar10.rows import command

    row = {"device": device, "threads": 2, "precision": precision}
    run = "python benchmarks/cifar10/run.py"
    assert command("a/b", row) == words.format(run=run)


def test_a_row_that_the_plan_no_longer_means_is_seen():
    from cifar10.plan import experiments
    from cifar10.rows import made_otherwise

    plan = {e.name: e for e in experiments()}
    name = "brief/resnet20/plain/0.28/0"
    row = {"experiment": name, **plan[name].model_dump(mode="json")}
    assert not made_otherwise(row, plan)
    assert not made_otherwise({**row, "options": {**row["options"], "factors": "weights"}}, plan)
    assert made_otherwise({**row, "options": {**row["options"], "factors": "data"}}, plan)
    assert made_otherwise({**row, "options": {**row["options"], "gone": 1}}, plan)
    assert made_otherwise({**row, "schedule": {**row["schedule"], "epochs": 4}}, plan)
    assert made_otherwise({**row, "experiment": "brief/resnet20/gone/0.28/0"}, plan)


def test_a_state_of_other_settings_is_not_resumed(tmp_path):
    fitted(job_of("svd", sparsify=0.0, layout="channel"), tmp_path)
    fitted(job_of("svd", sparsify=0.0, layout="channel"), tmp_path)
    with pytest.raises(SystemExit, match="other settings"):
        fitted(job_of("svd", sparsify=0.0, layout="spatial"), tmp_path)
    job = dataclasses.replace(job_of("svd", sparsify=0.0, layout="channel"), bfloat16=True)
    with pytest.raises(SystemExit, match="other settings"):
        fitted(job, tmp_path)


@pytest.mark.parametrize("use", ["svd", "trp"])
def test_bfloat16_trains_float32_weights(use, tmp_path):
    job = dataclasses.replace(job_of(use), bfloat16=True)
    model, progress = fitted(job, tmp_path)
    assert progress.epoch == 2
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact, _ = fitted(job_of(use), tmp_path / "float32")
    x = torch.randn(4, 3, SIDE, SIDE)
    with torch.no_grad():
        gap = (model.eval()(x) - exact.eval()(x)).abs().max()
    assert 0 < gap < 0.5  # both have learnt much alike, and not the same


def test_experiments_side_by_side_have_the_commands_own_settings(monkeypatch, tmp_path):
    from cifar10 import run

    calls = []
    monkeypatch.setattr(run.subprocess, "call", lambda words: calls.append(words) or 0)
    rows = tmp_path / "rows.jsonl"
    words = ["run.py", "brief/resnet20/t*/0.28/0", "--jobs", "2", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*words, "--bfloat16", "--again", "--rows", str(rows)])
    run.main()
    rivals = ["trp-channel", "trp-spatial", "truncation-channel", "truncation-spatial"]
    assert sorted(call[2].split("/")[2] for call in calls) == [*rivals, "tucker", "tucker-quick"]
    for call in calls:
        assert "--bfloat16" in call and "--again" in call and "--save" not in call
        assert str(call[call.index("--rows") + 1]) == str(rows)


def test_memory_counts_weights_thrice_and_what_is_saved_once():
    from cifar10.cost import Form, Runner

    model = torch.nn.Linear(4, 3)
    x, labels = torch.randn(5, 4), torch.zeros(5, dtype=torch.long)
    runner = Runner(Form(model, 1.0), (x, labels))
    weights, log_probabilities = 3 * 15 * 4, 5 * 3 * 4
    rest = runner.memory() - weights - log_probabilities
    assert 0 <= rest <= 5 * 8 + 2 * 4  # the labels, and scalars of the loss
    doubled = Runner(Form(model, 1.0, lambda m: m.weight.exp().sum()), (x, labels))
    assert doubled.memory() - runner.memory() == model.weight.numel() * 4


def test_forms_of_a_step_hold_what_their_names_say():
    from cifar10.cost import forms

    example = torch.zeros(1, 3, SIDE, SIDE)
    dense = load_model("resnet8").eval()
    whole = lorank.cost(dense, example).macs
    found = forms(dense, example)
    for form in found.values():
        share = lorank.cost(form.model.eval(), example).macs / whole
        assert share <= form.share + 1e-6
        assert share > form.share - 0.03
    thin = [
        m.contraction for m in found["two convolutions, 100%"].model.modules() if hasattr(m, "S")
    ]
    assert thin
    assert set(thin) == {"thin"}
