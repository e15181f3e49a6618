import json
import re
import shlex

import numpy as np
import pytest
import typer

from lorank.cli.app import app
from lorank.cli.matrix import MATRIX

GROUP = typer.main.get_command(app).commands["matrix"]
NAMES = [command.__name__ for command in MATRIX]


def examples(text):
    return [line.strip() for line in text.splitlines() if line.strip().startswith("lorank ")]


@pytest.fixture
def photo(tmp_path):
    """Two colour gradients and a box, which no low rank holds exactly, as a file."""
    image = pytest.importorskip("PIL.Image", reason="images need the extra 'data'")
    across, down = np.meshgrid(np.linspace(0, 1, 48), np.linspace(0, 1, 36))
    colours = np.stack([across, down, (across - 0.4) ** 2 + (down - 0.6) ** 2 < 0.1], -1)
    image.fromarray((255 * colours).round().astype(np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_group_alone_shows_its_commands(lorank):
    shown = lorank("matrix").out
    assert shown == lorank("matrix", "--help").out
    for name in NAMES:
        assert re.search(rf"^  {name} ", shown, re.M)
    assert re.search(r"^  matrix ", lorank("--help").out, re.M)


@pytest.mark.parametrize("name", NAMES)
def test_help_teaches(lorank, name):
    shown = lorank("matrix", name, "--help").out
    command = GROUP.commands[name]
    assert 2 <= len(examples(shown)) <= 4
    assert all(line.split()[1:3] == ["matrix", name] for line in examples(shown))
    for parameter in command.params:
        assert parameter.help, parameter.name
        if parameter.param_type_name == "option":
            assert parameter.opts[0] in shown
    prose = [line for line in shown.splitlines() if not line.strip().startswith("lorank ")]
    assert max(map(len, prose)) <= 80 and max(map(len, examples(shown))) <= 96


@pytest.mark.parametrize(
    ("name", "line"),
    [(name, line) for name in NAMES for line in examples(GROUP.commands[name].help)],
)
def test_every_example_can_be_typed(name, line):
    words = shlex.split(line)[3:]
    assert GROUP.commands[name].make_context(name, words).params


def test_qsvd_writes_the_best_image_of_its_rank(lorank, photo, tmp_path):
    out = tmp_path / "low.npy"
    answer = lorank("matrix", "qsvd", photo, "--rank", 3, "-o", out, "--json").json
    low, full = np.load(out), pixels(photo)
    values = np.linalg.svd(counterpart(full), compute_uv=False)[::4]
    error = np.linalg.norm(low - full) / np.linalg.norm(full)
    best = np.sqrt((values[3:] ** 2).sum() / (values**2).sum())
    assert answer["error"] == pytest.approx(error, rel=1e-12)
    # The real part, which an image has not, is left out of the best matrix: the error is less.
    assert 0.5 * best < error <= best * (1 + 1e-9)
    assert answer["errors"][0] == 1 and answer["errors"][3] == pytest.approx(best, rel=1e-6)
    assert answer["numbers"] == 4 * 3 * (36 + 48) and answer["rank"] == 3


def pixels(path):
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")) / 255


def counterpart(x):
    """Real matrix of multiplying by r·i + g·j + b·k, by the table of the units."""
    r, g, b = np.moveaxis(x, -1, 0)
    o = np.zeros_like(r)
    return np.block([[o, -r, -g, -b], [r, o, -b, g], [g, b, o, -r], [b, -g, r, o]])


def test_qsvd_keeps_the_energy_asked_for(lorank, photo, tmp_path):
    answers = {
        share: lorank("matrix", "qsvd", photo, "--energy", share, "--json").json
        for share in (0.9, 0.99)
    }
    for share, answer in answers.items():
        less = answer["errors"][answer["rank"] - 1]
        assert answer["energy"] >= share - 1e-9 and 1 - less**2 < share
    assert answers[0.9]["rank"] < answers[0.99]["rank"]


def test_qsvd_draws_and_writes_pictures(lorank, photo, tmp_path):
    pytest.importorskip("matplotlib")
    out, plot = tmp_path / "low.png", tmp_path / "errors.svg"
    said = lorank("matrix", "qsvd", photo, "--rank", 4, "-o", out, "--plot", plot).out
    assert pixels(out).shape == (36, 48, 3)
    assert np.abs(pixels(out) - pixels(photo)).mean() < 0.05
    drawn = plot.read_text()
    assert "<svg" in drawn and said.count("Wrote") == 2
    assert "unfolded" in said and "channels" in said


def test_qsvd_takes_quaternions(lorank, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "wind.npy", rng.standard_normal((12, 9, 4)).astype(np.float32))
    out = tmp_path / "low.npy"
    answer = lorank("matrix", "qsvd", tmp_path / "wind.npy", "--rank", 9, "-o", out, "--json").json
    assert answer["parts"] == 4 and answer["error"] < 1e-6
    assert np.load(out).shape == (12, 9, 4) and np.load(out).dtype == np.float32


def files(folder):
    (folder / "text.png").write_text("no image")
    (folder / "text.npy").write_text("no array")
    np.save(folder / "nan.npy", np.full((4, 4, 4), np.nan))
    np.save(folder / "flat.npy", np.ones((4, 4)))
    np.save(folder / "whole.npy", np.ones((4, 4, 3), np.int64))
    np.save(folder / "object.npy", np.array([{}], dtype=object))
    np.save(folder / "good.npy", np.ones((4, 5, 3)))
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:-8])


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("none.png", (), "there is no image file"),
        ("text.png", (), "cannot be read as an image"),
        ("text.npy", (), "cannot be read as an array of numbers"),
        ("cut.npy", (), "cannot be read as an array of numbers"),
        ("object.npy", (), "cannot be read as an array of numbers"),
        ("nan.npy", (), "holds finite values, found 64 NaN or Inf"),
        ("flat.npy", (), "found shape (4, 4)"),
        ("whole.npy", (), "uint8, uint16, float32 or float64, found int64"),
        ("good.npy", ("--rank", "5"), "a rank is a whole number from 1 to 4, found 5"),
        ("good.npy", ("--rank", "0"), "a rank is a whole number from 1 to 4, found 0"),
        ("good.npy", ("--energy", "0.5"), "--rank or --energy, one of the two"),
        ("good.npy", ("-o", "low.txt"), "an image's name ends in .png"),
        ("good.npy", ("-o", "no/low.png"), "a folder that exists"),
        ("good.npy", ("-o", "good.npy"), "different files, found one twice"),
        ("good.npy", ("--plot", "errors.gif"), "unknown format of pictures 'gif'"),
    ],
)
def test_qsvd_refuses_in_one_sentence(refused, tmp_path, monkeypatch, name, more, said):
    pytest.importorskip("PIL")
    monkeypatch.chdir(tmp_path)
    files(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    rank = () if "--rank" in more else ("--rank", "2")
    assert said in refused("matrix", "qsvd", name, *rank, *more)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_energy_is_a_share(refused, tmp_path):
    np.save(tmp_path / "good.npy", np.ones((4, 5, 3)))
    said = refused("matrix", "qsvd", tmp_path / "good.npy", "--energy", "1.5")
    assert "an energy is a share in (0, 1], found 1.5" in said
    assert "one of the two" in refused("matrix", "qsvd", tmp_path / "good.npy")


def test_black_has_no_error(lorank, tmp_path):
    np.save(tmp_path / "black.npy", np.zeros((4, 5, 3)))
    answer = lorank("matrix", "qsvd", tmp_path / "black.npy", "--rank", 1, "--json").json
    assert answer["error"] == 0 and answer["psnr"] is None
    assert json.dumps(answer)
