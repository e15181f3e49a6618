import pytest
import torch
import torch.nn.functional as F

import lorank
from lorank.training.objective import distillation_loss, penalty_of, ramped, task_terms
from lorank.training.recipe import Distillation, Stage


def test_sparsity_rises_over_the_ramp():
    stage = Stage(name="a", epochs=1, sparsity=4.0, ramp=0.5)
    assert [ramped(stage, p) for p in (0.0, 0.25, 0.5, 1.0)] == [0.0, 2.0, 4.0, 4.0]
    assert ramped(Stage(name="a", epochs=1, sparsity=4.0), 0.0) == 4.0


def test_distillation_is_the_divergence_of_softened_softmaxes():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 4, dtype=torch.float32)
    T = 3.0
    p, q = (teacher / T).softmax(-1), (student / T).softmax(-1)
    expected = T**2 * (p * (p / q).log()).sum(-1).mean()
    assert distillation_loss(student, teacher, T).item() == pytest.approx(expected.item(), rel=1e-5)
    assert distillation_loss(teacher, teacher, T).item() == pytest.approx(0, abs=1e-6)


def test_the_teacher_takes_its_share_of_the_loss():
    outputs, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    stage = Stage(name="a", epochs=1, distillation=Distillation(weight=0.25))
    terms = task_terms(stage, outputs, labels, torch.zeros(2, 3))
    assert {n: w for n, (w, _) in terms.items()} == {"task": 0.75, "distillation": 0.25}
    assert list(task_terms(stage, outputs, labels, None)) == ["task"]


def test_label_smoothing_reaches_the_task():
    outputs, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    stage = Stage(name="a", epochs=1, label_smoothing=0.1)
    expected = F.cross_entropy(outputs, labels, label_smoothing=0.1)
    assert torch.equal(task_terms(stage, outputs, labels, None)["task"][1], expected)


def test_penalties_come_with_their_weights_and_only_where_they_belong(net):
    model = lorank.decompose(net)
    stage = Stage(name="a", epochs=1, orthogonality=2.0, sparsity=0.5, kind="l1")
    terms = penalty_of(stage, model, 1.0)
    assert {n: w for n, (w, _) in terms.items()} == {"orthogonality": 2.0, "sparsity": 0.5}
    total = sum(layer.S.abs().sum() for layer in model if hasattr(layer, "S"))
    assert terms["sparsity"][1].item() == pytest.approx(total.item(), rel=1e-5)
    assert penalty_of(stage, net, 1.0) == {}
    frozen = lorank.decompose(net).requires_grad_(False)
    assert penalty_of(Stage(name="b", epochs=1, orthogonality=0), frozen, 1.0) == {}
    assert penalty_of(Stage(name="d", epochs=1, form="dense"), model, 1.0) == {}


def test_norms_are_penalised_in_both_forms_and_beside_the_others(net):
    dense = Stage(name="d", epochs=1, form="dense", operator_norm=0.5)
    terms = penalty_of(dense, net, 1.0)
    assert {n: w for n, (w, _) in terms.items()} == {"operator_norm": 0.5}
    stage = Stage(name="a", epochs=1, orthogonality=2.0, operator_norm=0.5, bound="refined")
    model = lorank.decompose(net)
    found = penalty_of(stage, model, 1.0)
    assert {n: w for n, (w, _) in found.items()} == {"orthogonality": 2.0, "operator_norm": 0.5}
    refined = penalty_of(dense.model_copy(update={"bound": "refined"}), net, 1.0)
    gap = found["operator_norm"][1].item() / refined["operator_norm"][1].item()
    assert gap == pytest.approx(1, rel=4e-3)
    assert found["operator_norm"][1].item() <= terms["operator_norm"][1].item() * 1.003


def test_every_bound_is_a_choice_of_a_recipe():
    from typing import get_args

    from lorank.linalg import BOUNDS
    from lorank.training.recipe import Bound

    assert set(get_args(Bound)) == set(BOUNDS)
