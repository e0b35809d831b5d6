"""The formulas of AugmentedData without Caffe: draws against their definition, pixels against OpenCV."""

import ctypes
import importlib.util
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from prototxt_gen.train.caffe_needs import compiler
from prototxt_gen.train.caffe_source import NATIVE_DIR

HERE = Path(__file__).parent
LAYERS = NATIVE_DIR / "layers"
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
_spec = importlib.util.spec_from_file_location("augmented_data_reference", HERE / "augmented_data_reference.py")
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

PAPER = (0.08, 1.0, 0.75, 4 / 3)
DRAWS = 10000
RANDOM, PADDED, CENTRE = range(3)


def pointer(array):
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    path = tmp_path_factory.mktemp("augmented") / "augmented.so"
    sources = [HERE / "augmented_data_drivers.cpp", LAYERS / "augmented_data_cpu.cpp"]
    subprocess.run([*compiler(), *FLAGS, f"-I{LAYERS}", *map(str, sources), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


def crops(native, kind, width, height, size, count=1, pad=0, short=0, seed=0, epoch=0, ranges=PAPER):
    """(count, 2, 4): rows and columns, each begin, length, size, first."""
    out = np.empty((count, 2, 4), np.int32)
    native.crops_c(kind, width, height, size, pad, short, pointer(np.array(ranges)), ctypes.c_uint64(seed),
                   ctypes.c_uint32(epoch), ctypes.c_int64(count), pointer(out))
    return out


def augment(native, image, axes, size, method=0, mirror=False, colour=None, mean=0.0, scale=1.0):
    """(size, size, C) in double from (H, W, C) bytes."""
    channels = image.shape[2]
    out = np.empty((channels, size, size))
    colour = None if colour is None else np.concatenate([colour[:3], colour[3]]).astype(float)
    native.augment_c(pointer(np.ascontiguousarray(image)), image.shape[1], channels,
                     pointer(np.ascontiguousarray(axes, np.int32)), method, int(mirror), size, pointer(colour),
                     pointer(np.full(channels, mean)), ctypes.c_double(scale), pointer(out))
    return out.transpose(1, 2, 0)


def deviation(values, cumulative):
    """Kolmogorov's distance to a distribution, times the root of the number of values: above 1.95 once in 1000."""
    values = np.sort(values)
    steps = np.arange(len(values) + 1) / len(values)
    theory = cumulative(values)
    return max((steps[1:] - theory).max(), (theory - steps[:-1]).max()) * len(values) ** 0.5


@pytest.mark.parametrize("counter, key, expected", [
    # The known answers of Random123's kat_vectors.
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 2 ** 64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), 0x299F31D0A4093822,
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])
def test_philox(native, counter, key, expected):
    out = np.empty(4, np.uint32)
    native.philox_c(pointer(np.array(counter, np.uint32)), ctypes.c_uint64(key), pointer(out))
    assert tuple(out) == expected == reference.philox(counter, key)


def order(native, count, seed=0, epoch=0):
    out = np.empty(count, np.int64)
    native.order_c(ctypes.c_uint64(count), ctypes.c_uint64(seed), ctypes.c_uint32(epoch), pointer(out))
    return out


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 16, 17, 1000, 4097, 65536])
def test_an_epoch_visits_each_image_once(native, count):
    for seed, epoch in ((0, 0), (0, 1), (2 ** 63, 7)):
        assert sorted(order(native, count, seed, epoch)) == list(range(count))


def test_epochs_and_seeds_have_other_orders(native):
    orders = [order(native, 5000, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for i, one in enumerate(orders):
        assert abs(np.corrcoef(one, np.arange(5000))[0, 1]) < 0.06
        # Neighbours are no nearer to one another than in a random order.
        assert np.abs(np.diff(one)).mean() == pytest.approx(5000 / 3, rel=0.04)
        for other in orders[:i]:
            assert (one == other).sum() < 10 and abs(np.corrcoef(one, other)[0, 1]) < 0.06


def test_small_orders_are_equally_frequent(native):
    seen = Counter(tuple(order(native, 3, seed, epoch)) for seed in range(40) for epoch in range(150))
    assert len(seen) == 6
    assert sum((times - 1000) ** 2 / 1000 for times in seen.values()) < 25


def test_areas_and_aspects_of_10000_crops(native):
    """In a square image every window up to 3/4 of the area fits, so that draws there follow the definition."""
    side = 3000
    found = crops(native, RANDOM, side, side, 224, DRAWS, ranges=(0.08, 0.75, 0.75, 4 / 3))
    (y, h), (x, w) = found[:, 0, :2].T.astype(float), found[:, 1, :2].T.astype(float)
    assert deviation(w * h / side ** 2, lambda a: np.clip((a - 0.08) / 0.67, 0, 1)) < 1.95
    log_aspect = np.log(w / h) / np.log(4 / 3)
    assert deviation(log_aspect, lambda a: np.clip((a + 1) / 2, 0, 1)) < 1.95
    assert abs(np.corrcoef(w * h, w / h)[0, 1]) < 0.04
    for corner, length in ((x, w), (y, h)):
        assert (corner >= 0).all() and (corner + length <= side).all()
        assert deviation((corner + 0.5) / (side - length + 1), lambda a: np.clip(a, 0, 1)) < 1.95
    assert abs(np.corrcoef(x / (side - w), y / (side - h))[0, 1]) < 0.04


@pytest.mark.parametrize("width, height", [(500, 375), (375, 500), (640, 480), (33, 1000), (2000, 90), (7, 5), (1, 1)])
def test_crops_are_inside_and_allowed(native, width, height):
    found = crops(native, RANDOM, width, height, 224, DRAWS)
    (y, h), (x, w) = found[:, 0, :2].T.astype(int), found[:, 1, :2].T.astype(int)
    assert (x >= 0).all() and (y >= 0).all() and (x + w <= width).all() and (y + h <= height).all()
    assert (w >= 1).all() and (h >= 1).all()
    # Sides are rounded to pixels.
    assert ((w + 1) / (h - 0.999) >= 0.75).all() and ((w - 1) / (h + 1) <= 4 / 3).all()
    assert (found[:, :, 2] == 224).all() and (found[:, :, 3] == 0).all()
    if min(width, height) >= 375:
        assert ((w + 1) * (h + 1) >= 0.08 * width * height).all()


def test_crops_are_those_of_the_definition(native):
    for width, height, seed, epoch in ((500, 375, 0, 0), (90, 2000, 2 ** 40 + 3, 5), (40, 44, 9, 70000)):
        found = crops(native, RANDOM, width, height, 64, 300, seed=seed, epoch=epoch)
        for image, (rows, columns) in enumerate(found):
            draws = reference.Draws(seed, epoch, image, reference.CROP)
            assert (columns[0], rows[0], columns[1], rows[1]) == reference.random_window(width, height, draws)


def test_images_epochs_and_seeds_draw_apart(native):
    same = [crops(native, RANDOM, 500, 375, 224, 1000, seed=s, epoch=e) for s, e in ((0, 0), (0, 0), (1, 0), (0, 1))]
    assert (same[0] == same[1]).all()
    for other in same[2:]:
        assert (same[0] == other).all((1, 2)).mean() < 0.01
    assert len(np.unique(same[0].reshape(1000, -1), axis=0)) > 990


def test_padded_crops_reach_every_place_equally_often(native):
    found = crops(native, PADDED, 32, 32, 32, DRAWS, pad=4)
    assert (found[:, :, :3] == (0, 32, 32)).all()
    counts = np.histogram2d(found[:, 0, 3], found[:, 1, 3], bins=[np.arange(-4, 6)] * 2)[0]
    # 81 places: chi-square with 80 degrees of freedom is above 125 once in 1000.
    assert counts.sum() == DRAWS and ((counts - DRAWS / 81) ** 2 / (DRAWS / 81)).sum() < 125


def test_mirrors_are_every_second_image(native):
    out = np.empty(DRAWS, np.int32)
    native.mirrors_c(ctypes.c_uint64(3), ctypes.c_uint32(1), ctypes.c_int64(DRAWS), pointer(out))
    assert set(out) == {0, 1} and abs(out.sum() - DRAWS / 2) < 4 * (DRAWS / 4) ** 0.5
    assert abs(np.corrcoef(out[1:], out[:-1])[0, 1]) < 0.04
    assert [reference.Draws(3, 1, i, reference.MIRROR).below(2) for i in range(100)] == list(out[:100])


@pytest.mark.parametrize("width, height, pad, short, expected", [
    (32, 32, 0, 0, [(0, 32, 32, 0), (0, 32, 32, 0)]),
    (32, 32, 4, 0, [(0, 32, 32, 0), (0, 32, 32, 0)]),
    (28, 28, 2, 0, [(0, 28, 28, -2), (0, 28, 28, -2)]),
    (28, 28, 0, 0, [(0, 28, 32, 0), (0, 28, 32, 0)]),
    (500, 375, 0, 36, [(0, 375, 36, 2), (0, 500, 48, 8)]),
    (375, 500, 0, 36, [(0, 500, 48, 8), (0, 375, 36, 2)]),
    (100, 40, 0, 0, [(0, 40, 40, 4), (0, 100, 100, 34)]),
])
def test_centre_crops(native, width, height, pad, short, expected):
    assert crops(native, CENTRE, width, height, 32, pad=pad, short=short).tolist() == [[list(a) for a in expected]]


def test_colour_draws_follow_the_definition(native):
    out = np.empty((DRAWS, 6))
    strength = np.array([0.4, 0.3, 1.5, 0.1])
    native.colours_c(pointer(strength), ctypes.c_uint64(5), ctypes.c_uint32(2), ctypes.c_int64(DRAWS), pointer(out))
    for column, (low, high) in enumerate(((0.6, 1.4), (0.7, 1.3), (0, 2.5))):
        assert deviation(out[:, column], lambda a, low=low, high=high: np.clip((a - low) / (high - low), 0, 1)) < 1.95
    assert np.abs(np.corrcoef(out[:, :3].T) - np.eye(3)).max() < 0.04
    vectors, values = reference.PCA_VECTORS, reference.PCA_VALUES
    expected = (25.5 * vectors * values) @ (25.5 * vectors * values).T
    np.testing.assert_allclose(np.cov(out[:, 3:].T), expected, rtol=0.08, atol=0.02)
    assert np.abs(out[:, 3:].mean(0) / out[:, 3:].std(0)).max() < 0.04
    for image in range(100):
        *factors, noise = reference.draw_colour(5, 2, image, *strength)
        np.testing.assert_allclose(out[image], [*factors, *noise], rtol=1e-9, atol=1e-9)


def picture(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


SIZES = [(60, 80, 24), (20, 17, 24), (24, 24, 24), (10, 90, 24), (90, 10, 24), (61, 47, 24), (1, 1, 9), (300, 2, 7)]


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("method", [reference.AUTO, reference.AREA, reference.LINEAR, reference.CUBIC])
@pytest.mark.parametrize("height, width, size", SIZES)
def test_resized_as_opencv_resizes_floats(native, height, width, size, method, channels):
    """OpenCV's own coefficients are floats, its positions too: hence 0.02 of 255."""
    image = picture(height + 7, width + 9, channels)
    axes = [[3, height, size, 0], [5, width, size, 0]]
    part = image[3:3 + height, 5:5 + width]
    expected = reference.resize(part, size, size, method)
    found = augment(native, image, axes, size, method)
    assert np.abs(found - expected).max() < 0.02
    assert (augment(native, image, axes, size, method, mirror=True) == found[:, ::-1]).all()
    if (height, width) == (size, size):
        assert (found == part).all()


@pytest.mark.parametrize("method, tolerance", [(reference.AREA, 0.502), (reference.LINEAR, 0.76),
                                               (reference.CUBIC, 1.26)])
def test_resized_as_opencv_resizes_bytes(native, method, tolerance):
    """OpenCV rounds bytes to whole numbers, LINEAR and CUBIC after sums in fixed point."""
    import cv2

    for height, width, size in SIZES:
        if method == reference.AREA and min(height, width) < size:
            continue
        image = picture(height, width)
        expected = cv2.resize(image, (size, size), interpolation=reference.CV_METHODS[method])
        found = augment(native, image, [[0, height, size, 0], [0, width, size, 0]], size, method)
        assert np.abs(found - expected.astype(float)).max() <= tolerance


@pytest.mark.parametrize("x, y", [(0, 0), (-4, 3), (4, -4), (-40, 0), (40, 40)])
def test_windows_outside_the_image_are_black(native, x, y):
    image = picture(32, 30)
    found = augment(native, image, [[0, 32, 32, y], [0, 30, 30, x]], 32)
    assert (found == reference.padded_window(image, x, y, 32)).all()


def test_colour_mean_and_scale(native):
    image = picture(20, 20)
    axes = [[0, 20, 20, 0]] * 2
    for number in range(20):
        drawn = reference.draw_colour(1, 2, number, 0.4, 0.5, 0.6, 0.1)
        found = augment(native, image, axes, 20, colour=drawn, mean=104.0, scale=0.017)
        expected = (reference.colour(image, *drawn) - 104) * 0.017
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)
    assert (augment(native, image, axes, 20, mean=104.0, scale=0.5) == (image - 104.0) * 0.5).all()
    grey = picture(20, 20, 1)
    expected = 1.2 * (0.5 * grey + 0.5 * grey.mean()) - 100
    found = augment(native, grey, axes, 20, colour=(1.2, 0.5, 3, np.zeros(3)), mean=100.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
