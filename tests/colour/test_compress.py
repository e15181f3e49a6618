import numpy as np
import pytest
import torch

import lorank
from colour.images import normal, smooth, spectrum
from lorank.colour import compress, picture, pixels, psnr, rivals
from lorank.colour.forms import FORMS, make_form

EPS = torch.finfo(torch.float64).eps
forms = pytest.mark.parametrize("name", FORMS)


def real_matrices(name, x):
    """What each form's singular values are those of, made here from the definition."""
    if name == "channels":
        return x.movedim(-1, 0)
    if name == "unfolded":
        return torch.cat(list(x.movedim(-1, 0)), 1)
    w, r, g, b = torch.nn.functional.pad(x, (1, 0))[..., -4:].unbind(-1)
    rows = [[w, -r, -g, -b], [r, w, -b, g], [g, b, w, -r], [b, -g, r, w]]
    return torch.cat([torch.cat(row, 1) for row in rows])


@forms
@pytest.mark.parametrize("parts", [3, 4])
def test_the_error_is_that_of_the_best_cut(name, parts):
    x = normal(24, 30, parts)
    rank = 5
    small = compress(x, rank, form=name)
    made = make_form(name, x)
    values = torch.linalg.svdvals(real_matrices(name, x)).square()
    values = values[::4] if name == "quaternion" else values.reshape(-1, values.shape[-1])
    values = values.reshape(-1, values.shape[-1]).sum(0)
    best = float((values[rank:].sum() / values.sum()).sqrt())
    assert small.errors()[rank] == pytest.approx(best, rel=1e-9)
    assert small.errors()[0] == 1 and len(small.errors()) == rank + 1
    if name == "quaternion" and parts == 3:  # the real part goes
        assert 0.9 * best < small.error() < best
    else:
        assert small.error() == pytest.approx(best, rel=1e-9)
    held = sum(f.numel() for f in (small.factors.U, small.factors.Vh))
    assert small.numbers == held == made.numbers(rank)
    assert torch.allclose(made.image(made.matrix(x)), x)


@forms
def test_full_rank_is_the_image(name):
    x = normal(9, 14, 3)
    small = compress(x, 9, form=name)
    assert small.error() < 100 * 23 * EPS and small.kept == pytest.approx(1, abs=1e-12)


@forms
def test_a_low_rank_is_found_by_a_sketch(name):
    """The sketch is within its bound of the full decomposition: the same to 1 % at a gap."""
    x = smooth(90, 80) + 1e-3 * normal(90, 80, 3)
    full = make_form(name, x)._cut(make_form(name, x)._full(make_form(name, x).matrix(x)), 8)
    best = make_form(name, x).image(make_form(name, x).product(*full))
    small = compress(x, 8, form=name)
    assert small.error() <= 1.01 * float((best - x).norm() / x.norm())
    assert torch.equal(small.image(), compress(x, 8, form=name).image())


@forms
def test_energy_is_the_smallest_rank_that_suffices(name):
    x = normal(20, 26, 4) if name == "quaternion" else normal(20, 26, 3)
    for share in (0.3, 0.9, 1.0):
        small = compress(x, energy=share, form=name)
        assert small.kept >= share - 1e-9
        if small.rank > 1:
            assert 1 - small.errors()[small.rank - 1] ** 2 < share
    assert small.rank == 20


def test_energy_finds_a_rank_beyond_the_first_try():
    values = torch.cat([torch.linspace(2, 1, 100), torch.full((60,), 1e-4)]).double()
    x = spectrum(values, 160, 160)
    small = compress(x, energy=1 - 1e-6)
    tail = (values.square().flip(0).cumsum(0).flip(0) / values.square().sum()) <= 1e-6
    assert small.rank == int(tail.int().argmax())


def test_equal_storage_is_equal_storage():
    x = smooth()
    rows = rivals(x, 4)
    quaternion = rows[0]
    assert [(r.form, r.at) for r in rows[1:]] == [
        ("channels", "storage"),
        ("unfolded", "storage"),
        ("channels", "rank"),
        ("unfolded", "rank"),
    ]
    for row in rows[1:3]:
        one = make_form(row.form, x).numbers(1)
        assert row.numbers <= quaternion.numbers < row.numbers + one
    for row in rows:
        small = compress(x, row.rank, form=row.form)
        assert row.numbers == small.numbers
        assert row.error == pytest.approx(small.error(), rel=1e-9)
        assert row.psnr == pytest.approx(psnr(small.image(), x), rel=1e-9)


def test_natively_quaternion_data_are_kept_best_as_quaternions():
    """The other way round than photographs: no real form has the structure."""
    x = spectrum(torch.linspace(2, 1, 4).double(), 40, 40)
    quaternion, channels, unfolded = rivals(x, 4)[:3]
    assert quaternion.error < 1e-12
    assert channels.error > 0.5 and unfolded.error > 0.5


def test_arrays_come_back_as_they_came():
    bytes_ = pixels(smooth())
    assert bytes_.dtype == np.uint8
    small = compress(bytes_, 3).image()
    assert isinstance(small, np.ndarray) and small.dtype == np.float64
    assert psnr(small, bytes_) > 20
    single = smooth().float()
    assert compress(single, 3).image().dtype == torch.float32
    assert picture(bytes_.astype(np.uint16) * 257).equal(picture(bytes_))
    assert picture(bytes_[::-1, :, ::-1]).shape == (40, 60, 3)


def test_psnr_is_its_definition():
    x, y = normal(5, 6, 3), normal(5, 6, 3, seed=1)
    want = 10 * np.log10(1 / np.mean((x.numpy() - y.numpy()) ** 2))
    assert psnr(x, y) == pytest.approx(want, rel=1e-12)
    assert psnr(x, x) == float("inf")


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        (torch.ones(4, 5), {"rank": 1}, "found shape .4, 5."),
        (torch.ones(4, 5, 2), {"rank": 1}, "found shape .4, 5, 2."),
        (torch.ones(0, 5, 3), {"rank": 1}, "found shape .0, 5, 3."),
        (torch.ones(4, 5, 3).half(), {"rank": 1}, "found float16"),
        (torch.ones(4, 5, 3).bool(), {"rank": 1}, "found bool"),
        ("photo.png", {"rank": 1}, "array of numbers"),
        (torch.full((4, 5, 3), torch.inf), {"rank": 1}, "found 60 NaN or Inf"),
        (torch.ones(4, 5, 3), {"rank": 5}, "from 1 to 4, found 5"),
        (torch.ones(4, 5, 3), {"rank": 0}, "from 1 to 4, found 0"),
        (torch.ones(4, 5, 3), {"rank": True}, "from 1 to 4, found True"),
        (torch.ones(90, 90, 3), {"rank": 1, "seed": 2**64}, "64 bits as a seed"),
        (torch.ones(4, 5, 3), {}, "a rank or an energy"),
        (torch.ones(4, 5, 3), {"rank": 1, "energy": 0.5}, "a rank or an energy"),
        (torch.ones(4, 5, 3), {"energy": 0.0}, "found 0.0"),
        (torch.ones(4, 5, 3), {"energy": float("nan")}, "found nan"),
        (torch.ones(4, 5, 3), {"rank": 1, "form": "chanels"}, "did you mean 'channels'"),
    ],
)
def test_what_cannot_be_compressed_is_refused(image, options, said):
    with pytest.raises(lorank.LorankError, match=said):
        compress(image, **options)


def test_one_pixel_and_black():
    assert compress(torch.ones(1, 1, 3), 1).error() < 1e-15
    black = compress(torch.zeros(4, 5, 3), 2)
    assert black.error() == 0 and black.kept == 1 and not black.image().any()
    assert compress(torch.zeros(4, 5, 3), energy=1.0).rank == 1
