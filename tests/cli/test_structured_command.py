"""``lorank structured``: a table of arms with paired seeds."""

import pytest

QUICK = ("structured", "--epochs", "4", "--seeds", "2", "--labels", "60")


def test_json_has_every_run_and_paired_gains(lorank):
    answer = lorank(*QUICK, "--json").json
    names = [row["arm"] for row in answer["arms"]]
    assert names == ["sup", "scaled sup", "in", "out", "in+out"]
    r2 = {(run["arm"], run["seed"]): run["r2"] for run in answer["runs"]}
    assert len(r2) == 10
    for row in answer["arms"][1:]:
        gains = [r2[row["arm"], seed] - r2["sup", seed] for seed in (0, 1)]
        assert row["gain"] == pytest.approx(sum(gains) / 2)
        assert row["better"] == sum(gain > 0 for gain in gains)


def test_it_repeats_itself_and_shows_a_table(lorank):
    typed = (*QUICK, "--arm", "sup", "--arm", "scaled sup", "--seeds", "1", "--unlabelled")
    one, other = lorank(*typed), lorank(*typed)
    assert one.out == other.out
    assert "60 labels, 1 seed, 4 epochs" in one.out and "scaled sup" in one.out
    assert "seed 0, sup: rmse" in one.err


def test_the_arms_are_listed(lorank):
    assert "scaled sup, label PCA" in lorank("structured", "--list").out
    assert len(lorank("structured", "--list", "--json").json["arms"]) == 9


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (("--data", "digit"), "unknown data 'digit': did you mean 'digits'"),
        (("--data", "landmarks"), "give --folder PATH"),
        (("--data", "landmarks", "--folder", "nowhere"), "there is no folder nowhere"),
        (("--folder", "."), "digits come with scikit-learn and take no folder"),
        (("--arm", "supp"), "unknown arm 'supp': did you mean 'sup'"),
        (("--labels", "2000"), "digits has 1000 training samples"),
        (("--rate", "0"), "learning_rate is above 0"),
    ],
)
def test_bad_input(refused, typed, sentence):
    assert sentence in refused("structured", *typed)
