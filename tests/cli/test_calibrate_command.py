"""``lorank compress --calibrate``: cut by what unlabelled inputs show to matter."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import lorank as library
from lorank.cli import calibration
from lorank.zoo import load_data, load_model

OPTIONS = {"in_channels": 1, "classes": 10, "size": 8, "width": 8}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "small.safetensors"


def asked(ended, out, *more):
    given = ("--calibrate", "digits", "--samples", "400", "--json")
    return (
        "compress",
        ended.folder / "dense.safetensors",
        "--macs",
        "0.5",
        "-o",
        out,
        *given,
        *more,
    )


def error(ended, file):
    """Relative error of the answers on images that nothing was calibrated on."""
    dense = library.load(ended.folder / "dense.safetensors", load_model("resnet8", **OPTIONS))
    small = library.load(file, load_model("resnet8", **OPTIONS))
    images, _ = load_data("digits").test.__getitems__(range(300))
    with torch.no_grad():
        true = dense.eval()(images)
        return float((small.eval()(images) - true).norm() / true.norm())


def test_each_step_loses_less_at_the_same_macs(lorank, ended, out):
    plain = lorank(*asked(ended, out)[:6], "--json").json["after"]["macs"]
    errors = [error(ended, out)]
    for more in (("--no-reconstruct",), ()):
        after = lorank(*asked(ended, out, *more)).json["after"]
        assert after["macs"] == pytest.approx(plain, rel=0.05)
        errors.append(error(ended, out))
    by_weights, by_data, walked = errors
    assert by_data < 0.9 * by_weights
    assert walked < 0.9 * by_data


def read(file):
    return library.load(file, load_model("resnet8", **OPTIONS))


def test_factors_by_weights_have_the_ranks_by_data(lorank, ended, out):
    fitted = lorank(*asked(ended, out)).json
    kept = lorank(*asked(ended, out, "--factors", "weights")).json
    named = [{r["layer"]: (r["rank"], r["layout"]) for r in a["layers"]} for a in (fitted, kept)]
    assert named[0] == named[1]
    cut = {r["layer"]: r for r in kept["layers"] if r["stays_dense"] is None}
    assert cut
    layouts = {name: row["layout"] for name, row in cut.items()}
    dense = read(ended.folder / "dense.safetensors")
    ranks = {name: row["rank"] for name, row in cut.items()}
    wanted = library.fold(library.decompose(dense, ranks, layout=layouts))
    images, _ = load_data("digits").test.__getitems__(range(20))
    with torch.no_grad():
        found, best = read(out).eval()(images), wanted.eval()(images)
    torch.testing.assert_close(found, best, rtol=1e-4, atol=1e-4)  # float32, a dozen layers


def test_a_network_in_svd_form_keeps_its_own_factors_too(lorank, ended, out):
    held = ended.folder / "svd.safetensors"
    swapped = {str(ended.folder / "dense.safetensors"): held, "0.5": "0.3"}
    images, _ = load_data("digits").test.__getitems__(range(20))
    answers = {}
    for factors in ("data", "weights"):
        typed = asked(ended, out, "--factors", factors)
        answer = lorank(*(swapped.get(str(word), word) for word in typed)).json
        ranks = {r["layer"]: r["rank"] for r in answer["layers"] if r["stays_dense"] is None}
        with torch.no_grad():
            answers[factors] = read(out).eval()(images)
    before = {name: layer.rank for name, layer in factored(read(held))}
    assert any(rank < before[name] for name, rank in ranks.items())
    with torch.no_grad():
        best = library.fold(library.prune(read(held), ranks)).eval()(images)
    near = {"rtol": 1e-4, "atol": 1e-4}  # float32, a dozen layers
    torch.testing.assert_close(answers["weights"], best, **near)
    assert not torch.allclose(answers["data"], best, **near)


def factored(model):
    return [(n, m) for n, m in model.named_modules() if isinstance(m, library.nn.Factored)]


def test_energies_are_those_of_the_factors_that_are_written(lorank, ended, out):
    dense = read(ended.folder / "dense.safetensors")
    for factors, alike in (("weights", True), ("data", False)):
        answer = lorank(*asked(ended, out, "--factors", factors)).json
        assert answer["factors"] == factors
        rows = [r for r in answer["layers"] if r["stays_dense"] is None]
        found = library.measure(dense, layout={r["layer"]: r["layout"] for r in answer["layers"]})
        kept = []
        for row in rows:
            energies = found[row["layer"]].values.flatten().double() ** 2
            kept.append(float(energies[: row["rank"]].sum() / energies.sum()))
        same = [
            row["energy"] == pytest.approx(k, rel=1e-4) for row, k in zip(rows, kept, strict=True)
        ]
        assert all(same) if alike else not any(same)


def test_options_that_do_not_fit_are_refused_before_anything_is_loaded(refused, tmp_path):
    given = (
        "compress",
        tmp_path / "none.safetensors",
        "--macs",
        "0.5",
        "-o",
        tmp_path / "o.safetensors",
    )
    assert "unknown factors" in refused(*given, "--calibrate", "digits", "--factors", "wights")


def test_tries_are_kept_and_an_interrupted_search_goes_on(lorank, ended, out, monkeypatch):
    lost, place = [], out.with_name(f".{out.name}.tries.json")
    real = library.sensitivity

    def interrupted(*args, note, **named):
        def stop(key, distance):
            note(key, distance)
            lost.append(key)
            if len(lost) == 3:
                raise KeyboardInterrupt

        return real(*args, note=stop, **named)

    with monkeypatch.context() as patch:
        patch.setattr(calibration.lorank, "sensitivity", interrupted)
        with pytest.raises((KeyboardInterrupt, AssertionError)):
            lorank(*asked(ended, out, "--sensitivity", "50"))
    assert set(json.loads(place.read_text())["tries"]) == set(lost) and not out.exists()
    again = lorank(*asked(ended, out, "--sensitivity", "50"))
    assert "3 tries were kept from before" in again.err
    assert out.exists() and not place.exists()


def test_tries_of_another_network_are_not_taken(ended, tmp_path):
    place = tmp_path / "tries.json"
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    mark = calibration._fingerprint(one, [torch.ones(1, 2)])
    place.write_text(json.dumps({"of": mark, "tries": {"a": 1.0}}))
    assert calibration._known(place, mark) == {"a": 1.0}
    assert calibration._known(place, calibration._fingerprint(other, [torch.ones(1, 2)])) == {}
    assert calibration._known(place, calibration._fingerprint(one, [torch.zeros(1, 2)])) == {}
    place.write_text("{")
    assert calibration._known(place, mark) == {}


def test_inputs_from_an_array(lorank, ended, out, tmp_path):
    rows = tmp_path / "rows.npy"
    images, _ = load_data("digits").train.__getitems__(range(200))
    np.save(rows, images.numpy())
    typed = asked(ended, out)
    lorank(*(rows if word == "digits" else word for word in typed))
    assert out.exists()


def test_a_network_in_svd_form_is_cut_by_data(lorank, ended, out):
    typed = asked(ended, out)
    lorank(*(ended.folder / "svd.safetensors" if "dense" in str(w) else w for w in typed))
    assert out.exists()


def test_a_budget_in_bytes(lorank, ended, out):
    typed = ("compress", ended.folder / "dense.safetensors", "--bytes", "0.6", "-o", out, "--json")
    answer = lorank(*typed).json
    assert 0.5 * answer["before"]["bytes"] < answer["after"]["bytes"]
    assert answer["after"]["bytes"] <= 0.6 * answer["before"]["bytes"]


def test_what_was_cut_enough_before_is_said(lorank, ended, out):
    done = lorank("compress", ended.folder / "svd.safetensors", "--macs", "0.99", "-o", out)
    assert "nothing was cut" in done.err


def test_few_inputs_are_said(lorank, ended, out):
    typed = asked(ended, out)
    done = lorank(*("2" if word == "400" else word for word in typed))
    assert "2 inputs are few for" in done.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--calibrate", "rows.txt"), "texts are for a Hugging Face model"),
        (("--calibrate", "none.npy"), "none.npy must be a NumPy file of numbers"),
        (("--calibrate", "moon"), "unknown data set 'moon'"),
        (("--sensitivity", "5"), "--sensitivity needs inputs: name them with --calibrate"),
        (("--samples", "5"), "--samples and --no-reconstruct are for --calibrate"),
        (("--no-reconstruct",), "--samples and --no-reconstruct are for --calibrate"),
        (("--factors", "weights"), "--factors needs inputs that choose the ranks"),
        (("--factors", "wights"), "unknown factors 'wights': did you mean 'weights'"),
    ],
)
def test_refused(refused, ended, out, more, said):
    dense = ended.folder / "dense.safetensors"
    assert said in refused("compress", dense, "--macs", "0.5", "-o", out, *more)
    assert not out.exists()


def test_inputs_with_nan_or_of_another_shape_are_refused(refused, ended, out, tmp_path):
    rows = tmp_path / "rows.npy"
    for bad, said in (
        (np.full((4, 1, 8, 8), np.nan, np.float32), "layer 'conv1' read NaN or Inf"),
        (np.ones((4, 3, 8, 8), np.float32), "the model must run on every batch, and failed on"),
    ):
        np.save(rows, bad)
        typed = asked(ended, out)
        assert said in refused(*(rows if word == "digits" else word for word in typed))
    assert not out.exists()
