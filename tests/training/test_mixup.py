"""Mixed samples: the loss is both labels' own, and the teacher is asked of the mixture."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from lorank.errors import LorankError
from lorank.training.mixup import Mixture, draw_mixture, mixed_inputs, mixed_labels
from lorank.training.objective import task_terms
from lorank.training.presets import practical
from lorank.training.recipe import Recipe, Stage
from lorank.training.recipe_text import change

pytest.importorskip("accelerate", reason="training needs the extra 'train'")
from lorank.training.run import train
from training.conftest import Problem


def drawn(count=6, most=0.5, seed=0):
    return draw_mixture(torch.zeros(count, 2), most, torch.Generator().manual_seed(seed))


def test_partners_are_a_permutation_and_shares_fill_their_interval():
    found = drawn(4000, 0.3)
    assert found.partner.sort().values.tolist() == list(range(4000))
    assert 0 <= float(found.share.min()) < 0.3 / 100
    assert 0.3 * 0.99 < float(found.share.max()) <= 0.3
    # Uniform: the mean's standard error is most / √(12·count).
    assert abs(float(found.share.mean()) - 0.15) < 5 * 0.3 / (12 * 4000) ** 0.5


def test_nothing_is_drawn_without_mixup():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert draw_mixture(torch.zeros(6), 0.0, generator) is None
    assert torch.equal(generator.get_state(), before)  # old runs stay the same bits


@pytest.mark.parametrize("shape", [(), (3,), (2, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_inputs_are_averaged_sample_by_sample(shape, dtype):
    x, mixture = torch.randn(6, *shape, dtype=torch.float64).to(dtype), drawn()
    found = mixed_inputs(x, mixture)
    assert found.dtype == dtype
    for i, (j, share) in enumerate(zip(*mixture, strict=True)):
        share = share.to(dtype).double()
        wanted = (1 - share) * x[i].double() + share * x[j].double()
        torch.testing.assert_close(
            found[i].double(), wanted, rtol=0, atol=8 * torch.finfo(dtype).eps
        )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_with_both_labels_by_their_shares(smoothing):
    outputs = torch.randn(6, 5, dtype=torch.float64)
    labels, mixture = torch.arange(6) % 3, drawn()
    stage = Stage(name="a", epochs=1, mixup=0.5, label_smoothing=smoothing)
    found = task_terms(stage, outputs, mixed_labels(labels, outputs, mixture), None)["task"][1]
    own, other = (
        F.cross_entropy(outputs, of, reduction="none", label_smoothing=smoothing)
        for of in (labels, labels[mixture.partner])
    )
    share = mixture.share.double()
    torch.testing.assert_close(found, ((1 - share) * own + share * other).mean())
    alone = F.cross_entropy(outputs, labels, label_smoothing=smoothing)
    assert abs(float(found - alone)) > 1e-3  # the mixture is seen to matter


def test_partners_of_one_class_keep_it_whole():
    labels = torch.tensor([2, 2])
    found = mixed_labels(labels, torch.zeros(2, 3), Mixture(torch.tensor([1, 0]), torch.rand(2)))
    assert torch.equal(found, F.one_hot(labels, 3).float())


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.zeros(6), r"whole numbers of classes, one a sample, found torch.float32"),
        (torch.zeros(6, 2, dtype=torch.long), r"shape \(6, 2\)"),
        (torch.tensor([0, 1, 2, 3, 4, 5]), "from 0 to 4, which the network answers, found 0 to 5"),
        (torch.tensor([0, 1, 2, 3, 4, -100]), "found -100 to 4"),
    ],
)
def test_labels_that_cannot_be_mixed_are_one_sentence(labels, sentence):
    with pytest.raises(LorankError, match=sentence):
        mixed_labels(labels, torch.zeros(6, 5), drawn())


def test_whole_numbers_as_inputs_are_one_sentence():
    with pytest.raises(LorankError, match=r"floating-point numbers, found torch.int64"):
        mixed_inputs(torch.zeros(6, 2, dtype=torch.long), drawn())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mixup": 0.6}, "mixup"),
        ({"mixup": -0.1}, "mixup"),
        ({"mixup": 0.1, "invariance": {"layer": "0"}}, "one of mixup and invariance"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        Stage(name="a", epochs=1, **settings)


def test_network_and_teacher_see_the_same_mixtures(net, problem, tmp_path, monkeypatch):
    from lorank.training import run

    recipe = change(practical(epochs=3, macs=0.5), ["batch_size=16", "augment=false"])
    recipe = change(recipe, ["stages.1.mixup=0.5", "stages.1.distillation.weight=0.5"])
    seen, steps = {"student": [], "teacher": []}, len(problem.train) // 16
    real = run.train_epoch

    def watched(stage, epoch, actors, *others):
        networks = {"student": actors.prepared, "teacher": actors.teacher}
        hooks = [
            networks[who].register_forward_pre_hook(lambda _, x, of=of: of.append(x[0].clone()))
            for who, of in seen.items()
            if stage is recipe.stages[1]
        ]
        found = real(stage, epoch, actors, *others)
        for hook in hooks:
            hook.remove()
        return found

    monkeypatch.setattr(run, "train_epoch", watched)
    train(net, problem, recipe, tmp_path, quiet=True)
    assert len(seen["student"]) == recipe.stages[1].epochs * steps > 0
    assert all(torch.equal(a, b) for a, b in zip(*seen.values(), strict=True))
    given = {x.numpy().tobytes() for x in problem.train.tensors[0]}
    found = [x.contiguous().numpy().tobytes() in given for batch in seen["teacher"] for x in batch]
    assert sum(found) < len(found) / 8  # one of 16 is its own partner on average


def test_a_run_with_mixtures_learns_and_is_the_same_bits_again(net, problem, tmp_path):
    recipe = change(practical(epochs=6, dense_epochs=3, macs=0.5), ["batch_size=16"])
    mixed = change(recipe, [f"stages.{i}.mixup=0.4" for i in range(3)])
    first, again = (train(net, problem, mixed, tmp_path / n, quiet=True) for n in "ab")
    plain = train(net, problem, recipe, tmp_path / "plain", quiet=True)
    assert first.accuracy > 0.8
    x = problem.test.tensors[0]
    answers = [r.model.eval()(x) for r in (first, again, plain)]
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


@pytest.mark.parametrize(
    ("outputs", "found"), [((4, 3, 5), "(4, 3, 5)"), ((8, 3), "(8, 3)"), ((4,), "(4,)")]
)
def test_answers_are_one_row_a_label(outputs, found):
    with pytest.raises(LorankError, match=re.escape(f"found shape {found} and 4 labels")):
        mixed_labels(torch.arange(4) % 3, torch.zeros(outputs), drawn(4))


@pytest.mark.parametrize(
    ("x", "labels", "batch", "sentence"),
    [
        (torch.float32, torch.int64, 1, "batch_size of at least 2, found 1"),
        (torch.int64, torch.int64, 16, "floating-point numbers, found torch.int64"),
        (torch.float32, torch.float32, 16, "whole numbers of classes, .* found torch.float32"),
    ],
)
def test_what_cannot_be_mixed_is_refused_before_the_stages_ahead(
    x, labels, batch, sentence, net, problem, tmp_path
):
    inputs, classes = problem.train.tensors
    odd = Problem(TensorDataset(inputs.to(x), classes.to(labels)), problem.test)
    stages = [Stage(name=n, form="dense", epochs=1, mixup=m) for n, m in (("a", 0.0), ("b", 0.5))]
    recipe = Recipe(stages=tuple(stages), batch_size=batch)
    with pytest.raises(LorankError, match=sentence):
        train(net, odd, recipe, tmp_path, quiet=True)
    assert not (tmp_path / "state.pt").exists()
    mended = Recipe(stages=(stages[0],), batch_size=16)
    assert train(net, problem, mended, tmp_path, quiet=True).accuracy > 0  # in the same folder


def test_a_label_that_is_no_class_stops_the_run_before_a_step(net, problem, tmp_path):
    x, labels = problem.train.tensors
    odd = Problem(TensorDataset(x, labels.where(labels != 2, -100)), problem.test)
    recipe = Recipe(stages=(Stage(name="d", form="dense", epochs=1, mixup=0.5),), batch_size=16)
    with pytest.raises(LorankError, match="found -100 to 1"):
        train(net, odd, recipe, tmp_path, quiet=True)
