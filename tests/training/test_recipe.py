import json

import pytest

from lorank.errors import LorankError
from lorank.training.presets import paper, practical, preset
from lorank.training.recipe import Recipe, Stage
from lorank.training.recipe_text import change, make_recipe, read_recipe


def test_the_paper_has_three_stages_with_orthogonality_on_and_sparsity_in_the_second_alone():
    recipe = paper()
    assert [s.epochs for s in recipe.stages] == [164, 164, 164]
    assert all(s.orthogonality == 1.0 for s in recipe.stages)
    assert [s.sparsity > 0 for s in recipe.stages] == [False, True, False]
    assert [s.cut is not None for s in recipe.stages] == [False, True, False]
    assert recipe.stages[0].optimizer.name == "adam"
    assert recipe.stages[0].optimizer.weight_decay == 0
    assert recipe.batch_size == 100


def test_the_practical_recipe_spends_its_epochs():
    recipe = practical(epochs=9, dense_epochs=4, macs=0.5)
    assert [s.epochs for s in recipe.stages] == [4, 3, 6]
    assert recipe.stages[1].cut.macs == 0.5
    assert recipe.stages[2].sparsity == 0


def test_a_recipe_survives_json_and_toml(tmp_path):
    recipe = practical(epochs=3)
    path = tmp_path / "recipe.json"
    path.write_text(recipe.model_dump_json())
    assert read_recipe(path) == recipe
    path = tmp_path / "recipe.toml"
    path.write_text('batch_size = 7\n[[stages]]\nname = "one"\nepochs = 2\n')
    assert read_recipe(path).batch_size == 7


def test_the_schema_can_be_published():
    assert "stages" in json.dumps(Recipe.model_json_schema())


def test_a_setting_changes_one_value_and_leaves_the_recipe_alone():
    recipe = practical(epochs=3)
    changed = change(recipe, ["stages.0.optimizer.lr=0.5", "layout=channel", 'skip=["linear"]'])
    assert changed.stages[0].optimizer.lr == 0.5
    assert changed.layout == "channel"
    assert changed.skip == ("linear",)
    assert recipe.stages[0].optimizer.lr != 0.5


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: change(practical(), ["stages.0.lr=1"]), "unknown setting"),
        (lambda: change(practical(), ["stages.9.epochs=1"]), "unknown setting"),
        (lambda: change(practical(), ["batch_size"]), "path=value"),
        (lambda: change(practical(), ["batch_size=0"]), "batch_size"),
        (lambda: change(practical(), ["stages.0.kind=hoier"]), "hoyer"),
        (lambda: make_recipe({}), "stages"),
        (lambda: make_recipe({"stages": []}), "stages"),
        (lambda: make_recipe({"stages": [{"name": "a", "epochs": -1}]}), "epochs"),
        (lambda: make_recipe({"stages": [{"name": "a", "epochs": 1, "cut": {}}]}), "one of macs"),
        (
            lambda: change(practical(), ["stages.0.cut.calibration=1", "stages.0.cut.by=raw"]),
            "no factors by data",
        ),
        (
            lambda: make_recipe(
                {"stages": [{"name": "a", "epochs": 1, "cut": {"macs": 0.5, "params": 0.5}}]}
            ),
            "one of macs",
        ),
        (
            lambda: make_recipe(
                {"stages": [{"name": "a", "epochs": 1}, {"name": "a", "epochs": 1}]}
            ),
            "names of their own",
        ),
        (
            lambda: make_recipe(
                {
                    "stages": [
                        {"name": "a", "epochs": 1},
                        {"name": "b", "epochs": 1, "form": "dense"},
                    ]
                }
            ),
            "dense stage cannot follow",
        ),
        (lambda: Stage(name="d", form="dense", epochs=1, sparsity=1), "nothing to sparsify"),
        (lambda: preset("papper"), "did you mean 'paper'"),
        (lambda: preset("paper", macs=0.5), "does not take this"),
        (lambda: preset("practical", epochs=-3), "epochs"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_recipe_file_that_cannot_be_read_is_one_sentence(tmp_path):
    with pytest.raises(LorankError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
    path = tmp_path / "bad.toml"
    path.write_text("stages = [")
    with pytest.raises(LorankError, match="is not toml"):
        read_recipe(path)
