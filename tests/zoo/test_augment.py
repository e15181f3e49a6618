import time

import pytest
import torch

from lorank.zoo import Augment

FILL = (-1.0, -2.0, -3.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def one_image(image, pad, fill, top, left, mirror):
    """The slow oracle: every pixel of one image by its own rule."""
    channels, height, width = image.shape
    out = torch.empty_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                row = y + top - pad
                column = (width - 1 - x if mirror else x) + left - pad
                inside = 0 <= row < height and 0 <= column < width
                out[c, y, x] = image[c, row, column] if inside else fill[c]
    return out


def every_way(image, augment):
    shifts = range(2 * augment.pad + 1)
    mirrors = (False, True) if augment.flip else (False,)
    return {
        (top, left, mirror): one_image(image, augment.pad, augment.fill, top, left, mirror)
        for top in shifts
        for left in shifts
        for mirror in mirrors
    }


@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("flip", [False, True])
def test_each_result_is_one_of_the_oracles_and_all_occur(pad, flip):
    augment = Augment(pad, flip, FILL)
    image = torch.randn(3, 4, 5, generator=generator(1))
    want = every_way(image, augment)
    got = augment(image.expand(400, -1, -1, -1), generator())
    seen = []
    for result in got:
        matches = [key for key, value in want.items() if torch.equal(result, value)]
        assert len(matches) == 1
        seen += matches
    assert set(seen) == set(want)


def test_images_of_a_batch_keep_their_places():
    batch = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 4, 4)
    got = Augment(1, True, FILL)(batch, generator())
    assert torch.equal(got[:, :, 1:3, 1:3], batch[:, :, 1:3, 1:3])


def test_draws_are_uniform():
    augment = Augment(1, True, (0.0,))
    image = torch.arange(1.0, 10.0).view(1, 1, 3, 3).expand(9000, 1, 3, 3)
    kinds, counts = augment(image, generator()).flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 18
    assert (counts - 500).abs().max() < 5 * 500**0.5


def test_the_generator_decides_alone():
    augment, batch = Augment(4, True, FILL), torch.randn(16, 3, 32, 32)
    one = generator(5)
    torch.manual_seed(1)
    first, second = augment(batch, one), augment(batch, one)
    state = torch.get_rng_state()
    again = generator(5)
    assert torch.equal(augment(batch, again), first)
    assert torch.equal(augment(batch, again), second)
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_batch_is_left_alone():
    batch = torch.randn(4, 3, 8, 8)
    before = batch.clone()
    Augment(2, True, FILL)(batch, generator())
    assert torch.equal(batch, before)


def test_channels_last_and_other_types():
    batch = torch.randn(4, 3, 8, 8, generator=generator(3))
    augment = Augment(2, True, FILL)
    want = augment(batch, generator())
    last = batch.to(memory_format=torch.channels_last)
    assert torch.equal(augment(last, generator()), want)
    assert torch.equal(augment(batch.bfloat16(), generator()), want.bfloat16())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_another_device():
    batch, augment = torch.randn(4, 3, 8, 8), Augment(2, True, FILL)
    assert torch.equal(augment(batch.cuda(), generator()).cpu(), augment(batch, generator()))


def test_is_quick():
    augment, batch, draws = Augment(4, True, FILL), torch.randn(128, 3, 32, 32), generator()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        augment(batch, draws)
        times.append(time.perf_counter() - start)
    # About 1 ms on an idle processor; a loop over the images takes 15 times as long.
    assert min(times) < 0.01


def test_errors(told):
    assert told(Augment, -1, True, FILL) == "pad must be at least 0, but got -1"
    said = told(Augment(1, True, FILL), torch.zeros(1, 1, 4, 4), generator())
    assert said == "fill must have one value a channel (1), but has 3"
