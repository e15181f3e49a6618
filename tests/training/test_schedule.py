"""SVD training inside another trainer's loop: the shared part, and the two thin adapters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import lorank
from lorank.errors import LorankError
from lorank.training.schedule import SVDSchedule
from training.conftest import images


def ranks_of(model: nn.Module) -> list[int]:
    return [m.rank for m in model.modules() if isinstance(m, lorank.nn.Factored)]


def test_the_gradient_added_is_that_of_the_penalty(net):
    model = lorank.decompose(net)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    lorank.penalty(model, orthogonality=2.0, sparsity=0.1, kind="l1").backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    found = SVDSchedule(orthogonality=2.0, sparsity=0.1, kind="l1", ramp=0).before_step(model, 0.5)
    assert found.keys() == {"orthogonality", "sparsity"}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 1 + expected.get(name, 0 * parameter.data))


def test_sparsity_rises_and_ends_with_the_cut(net):
    model = lorank.decompose(net)
    schedule = SVDSchedule(sparsity=0.1, params=0.6, ramp=0.5, cut_at=0.5)
    assert "sparsity" not in schedule.before_step(model, 0.0)
    assert "sparsity" in schedule.before_step(model, 0.25)
    assert schedule.after_epoch(model, 0.4, []) == {}
    ranks = schedule.after_epoch(model, 0.5, [])
    assert sum(ranks_of(model)) == sum(ranks.values())
    assert "sparsity" not in schedule.before_step(model, 0.75)
    assert schedule.after_epoch(model, 1.0, []) == {}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_an_optimizer_goes_on_after_a_cut_in_place(net, kind):
    model = lorank.decompose(net)
    optimizer = kind(model.parameters(), lr=1e-3)
    x, labels = images(16, 0).tensors
    schedule = SVDSchedule(params=0.5)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        schedule.before_step(model, 0.5)
        optimizer.step()

    step()
    before = ranks_of(model)
    schedule.after_epoch(model, 1.0, [optimizer])
    assert sum(ranks_of(model)) < sum(before)
    factors = [m.U.detach().clone() for m in model.modules() if isinstance(m, lorank.nn.Factored)]
    step()
    after = [m.U for m in model.modules() if isinstance(m, lorank.nn.Factored)]
    assert all(not torch.equal(a, b) for a, b in zip(factors, after, strict=True))


def test_wrong_settings_are_one_sentence(net):
    with pytest.raises(LorankError, match="one of macs"):
        SVDSchedule(macs=0.5, params=0.5)
    with pytest.raises(LorankError, match="kind"):
        SVDSchedule(kind="l2")
    with pytest.raises(LorankError, match="needs one process, found 2"):
        SVDSchedule(params=0.5).after_epoch(lorank.decompose(net), 1.0, [], processes=2)
    with pytest.raises(LorankError, match="has none"):
        SVDSchedule().before_step(net, 0.0)


def test_lightning_trains_regularises_and_cuts(net):
    lightning = pytest.importorskip("lightning.pytorch", reason="needs the extra 'lightning'")
    from lorank.training.lightning import LorankCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = lorank.decompose(net)

        def training_step(self, batch, index):
            x, labels = batch
            return F.cross_entropy(self.net(x), labels)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    module, callback = Module(), LorankCallback(sparsity=0.05, params=0.6)
    trainer = lightning.Trainer(
        max_epochs=4,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )
    full = sum(ranks_of(module))
    trainer.fit(module, DataLoader(images(192, 0), 32))
    assert callback.schedule.is_cut
    assert sum(ranks_of(module)) < full
    assert float(trainer.callback_metrics["lorank/orthogonality"]) > 0
    x, labels = images(120, 1).tensors
    assert (lorank.fold(module.net).eval()(x).argmax(1) == labels).float().mean() > 0.8


def test_the_transformers_trainer_regularises_and_cuts(net, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'transformers'")
    from lorank.training.transformers import LorankCallback

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = lorank.decompose(net)

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    def rows(dataset):
        return [{"x": x, "labels": y} for x, y in dataset]

    model, callback = Model(), LorankCallback(sparsity=0.05, params=0.6)
    full = sum(ranks_of(model))
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        num_train_epochs=4,
        per_device_train_batch_size=32,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    transformers.Trainer(
        model, arguments, train_dataset=rows(images(192, 0)), callbacks=[callback]
    ).train()
    assert callback.schedule.is_cut
    assert callback.penalties["orthogonality"] > 0
    assert sum(ranks_of(model)) < full
    x, labels = images(120, 1).tensors
    assert (lorank.fold(model.net).eval()(x).argmax(1) == labels).float().mean() > 0.8
