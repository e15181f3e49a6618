import pytest
import torch
import torch.nn.functional as F

import lorank
from lorank.errors import LorankError
from lorank.training.objective import (
    CLASSES,
    check_task,
    distillation_loss,
    penalty_of,
    ramped,
    task_terms,
)
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


def by_class(student, teacher, T, others):
    """Decoupled distillation of one sample, from probabilities, class by class."""
    p, q = (teacher / T).softmax(-1), (student / T).softmax(-1)
    first = int(p.argmax())
    rest = [c for c in range(len(p)) if c != first]
    two = sum(
        a * (a / b).log()
        for a, b in ((p[first], q[first]), (1 - p[first], sum(q[c] for c in rest)))
    )
    inner = sum(
        p[c] / (1 - p[first]) * (p[c] / (1 - p[first]) / (q[c] / sum(q[d] for d in rest))).log()
        for c in rest
    )
    return T**2 * (two + (1 - p[first] if others is None else others) * inner)


@pytest.mark.parametrize("others", [None, 0.0, 0.5, 2.0])
def test_decoupled_distillation_weighs_the_classes_that_are_not_first(others):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 6, 5)
    expected = sum(
        by_class(s.double(), t.double(), 4.0, others) for s, t in zip(student, teacher, strict=True)
    )
    found = distillation_loss(student, teacher, 4.0, others=others)
    assert found.item() == pytest.approx(expected.item() / len(student), rel=1e-5)


def test_decoupled_distillation_is_zero_at_the_teacher_and_bears_a_sure_one():
    teacher = torch.tensor([[300.0, 0.0, -5.0], [0.0, 1.0, 300.0]])
    student = teacher.clone().requires_grad_()
    loss = distillation_loss(student, teacher, 1.0, others=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad.abs().max() < 1e-6
    wrong = torch.zeros(2, 3, requires_grad=True)
    distillation_loss(wrong, teacher, 1.0, others=2.0).backward()
    # The plain divergence has forgotten which of the others the teacher likes better.
    assert (wrong.grad[0, 1] - wrong.grad[0, 2]).abs() > 0.1
    plain = torch.zeros(2, 3, requires_grad=True)
    distillation_loss(plain, teacher, 1.0).backward()
    assert (plain.grad[0, 1] - plain.grad[0, 2]).abs() < 1e-6


def test_one_class_has_no_others_and_a_weight_is_a_finite_number():
    one, two, three = (torch.zeros(3, n) for n in (1, 2, 3))
    with pytest.raises(LorankError, match=r"two classes, found \(3, 1\) and \(3, 1\)$"):
        distillation_loss(one, one, 1.0, others=2.0)
    with pytest.raises(LorankError, match=r"one shape, .* found \(3, 3\) and \(3, 2\)$"):
        distillation_loss(three, two, 1.0, others=2.0)
    for bad in (-1.0, float("inf"), float("nan")):
        with pytest.raises(LorankError, match=f"finite number from 0 on, found {bad}"):
            distillation_loss(two, two, 1.0, others=bad)
    assert distillation_loss(one, one, 1.0).item() == 0


def test_a_recipe_weighs_the_others_by_its_distillation():
    torch.manual_seed(0)
    outputs, taught, labels = torch.randn(4, 3), 3 * torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    how = Distillation(weight=0.5, temperature=2.0, others=1.5)
    stage = Stage(name="a", epochs=1, distillation=how)
    found = task_terms(stage, outputs, labels, taught)["distillation"][1]
    assert torch.equal(found, distillation_loss(outputs, taught, 2.0, others=1.5))
    assert not torch.isclose(found, distillation_loss(outputs, taught, 2.0))
    for bad in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="others"):
            Distillation(others=bad)


@pytest.mark.parametrize(
    "stage",
    [
        Stage(name="b", epochs=1, mixup=0.5),
        Stage(name="b", epochs=1, distillation=Distillation(others=1)),
    ],
    ids=["mixup", "distillation.others"],
)
def test_settings_for_classes_are_refused_for_another_task(stage, request):
    setting = request.node.callspec.id
    other = CLASSES._replace(right=lambda outputs, labels: outputs > labels)
    plain = Stage(name="a", epochs=1, distillation=Distillation())
    check_task([plain, stage], CLASSES)
    check_task([plain], other)
    with pytest.raises(LorankError, match=f"stage 'b' has {setting}, which is for classes alone"):
        check_task([plain, stage], other)


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
