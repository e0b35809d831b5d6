"""The CPU drivers alone, without Caffe: gradients by finite differences in double, sums that keep their digits."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prototxt_gen.train.caffe_needs import compiler
from prototxt_gen.train.caffe_source import NATIVE_DIR

HERE = Path(__file__).parent
LAYERS = NATIVE_DIR / "layers"
FLAGS = ["-std=c++17", "-O3", "-fopenmp-simd", "-ffp-contract=off", "-fno-trapping-math",
         "-pthread", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
SHAPES = [(3, 4, 5, 6), (7, 3), (2, 3, 4), (2, 2, 3, 2, 2), (5, 1, 1, 1)]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """All drivers, which need neither Caffe nor other libraries, in a library of its own."""
    path = tmp_path_factory.mktemp("drivers") / "drivers.so"
    sources = [*sorted(LAYERS.glob("*_cpu.cpp")), LAYERS / "parallel.cpp"]
    assert len(sources) >= 2
    command = [*compiler(), *FLAGS, f"-I{LAYERS}", str(HERE / "drivers.cpp"), *map(str, sources), "-o", str(path)]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def drivers(library):
    """Call a driver by name: arrays become pointers to their values, and their type picks float or double."""
    loaded = ctypes.CDLL(str(library))

    def call(name, dims, *arguments):
        floats = {a.dtype for a in arguments if isinstance(a, np.ndarray)}
        assert floats in ({np.dtype("f4")}, {np.dtype("f8")})
        suffix = "f" if np.dtype("f4") in floats else "d"
        converted = [np.asarray(dims, np.int64).ctypes.data_as(ctypes.c_void_p)]
        for value in arguments:
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous
                converted.append(value.ctypes.data_as(ctypes.c_void_p))
            else:
                converted.append(ctypes.c_double(value) if isinstance(value, float) else value)
        getattr(loaded, f"{name}_{suffix}")(*converted)

    return call


class BN:
    """One BN over an array: forward and backward, with the batch's or with fixed statistics."""

    def __init__(self, drivers, shape, fixed, dtype=np.float64, eps=1e-5, momentum=0.9, seed=0):
        rng = np.random.default_rng(seed)
        channels = shape[1]
        self.drivers, self.fixed, self.eps, self.momentum = drivers, fixed, eps, momentum
        self.dims = [shape[0], channels, int(np.prod(shape[2:], dtype=int))]
        self.slope, self.bias = rng.standard_normal((2, channels)).astype(dtype)
        self.moving_mean = rng.standard_normal(channels).astype(dtype)
        self.moving_inv_std = rng.uniform(0.5, 2, channels).astype(dtype)
        self.mean, self.inv_std = np.zeros((channels, 2), dtype), np.zeros(channels, dtype)

    def forward(self, x):
        y = np.empty_like(x)
        if self.fixed:
            self.drivers("bn_fixed_forward", self.dims, x, self.slope, self.bias, self.moving_mean,
                         self.moving_inv_std, y)
        else:
            self.drivers("bn_batch_forward", self.dims, self.eps, self.momentum, x, self.slope, self.bias, y,
                         self.mean, self.inv_std, self.moving_mean, self.moving_inv_std)
        return y

    def backward(self, x, dy, wanted=(True, True, True), dx=None):
        """Return the differences of slope, bias and x, None for those that are not wanted."""
        out = [np.zeros_like(self.slope), np.zeros_like(self.bias), np.empty_like(x) if dx is None else dx]
        given = [one if want else None for one, want in zip(out, wanted)]
        statistics = (self.moving_mean, self.moving_inv_std) if self.fixed else (self.mean, self.inv_std)
        name = "bn_fixed_backward" if self.fixed else "bn_batch_backward"
        self.drivers(name, self.dims, x, dy, self.slope, *statistics, *given)
        return given


def numeric(function, array, step=1e-5):
    """Central differences of a scalar function with respect to every value of an array."""
    out = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = function()
        array[index] = kept - step
        below = function()
        array[index] = kept
        out[index] = (above - below) / (2 * step)
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fixed", [False, True])
def test_bn_gradients(drivers, shape, fixed):
    rng = np.random.default_rng(1)
    # A large eps keeps the curvature at a single value per channel within reach of finite differences.
    layer = BN(drivers, shape, fixed, eps=0.1)
    x, dy = rng.standard_normal(shape), rng.standard_normal(shape)
    layer.forward(x)
    analytic = layer.backward(x, dy)
    for found, array in zip(analytic, (layer.slope, layer.bias, x)):
        expected = numeric(lambda: float((layer.forward(x) * dy).sum()), array)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fixed", [False, True])
def test_bn_differences_that_are_not_wanted(drivers, fixed):
    shape, rng = (3, 4, 5, 6), np.random.default_rng(2)
    layer = BN(drivers, shape, fixed)
    x, dy = rng.standard_normal(shape), rng.standard_normal(shape)
    layer.forward(x)
    whole = layer.backward(x, dy)
    for wanted in np.ndindex(2, 2, 2):
        for one, expected in zip(layer.backward(x, dy, wanted), whole):
            assert one is None or one.tobytes() == expected.tobytes()


@pytest.mark.parametrize("fixed", [False, True])
def test_bn_backward_over_its_own_input(drivers, fixed):
    shape, rng = (3, 4, 5, 6), np.random.default_rng(3)
    layer = BN(drivers, shape, fixed, np.float32)
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    layer.forward(x)
    apart = layer.backward(x, dy)[2]
    assert layer.backward(x, dy, dx=dy)[2].tobytes() == apart.tobytes()


def test_bn_keeps_digits_beside_an_offset(drivers):
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((4, 3, 16, 16)) * np.array([0, 1e-3, 1]).reshape(1, 3, 1, 1)
    x = (1000 + noise).astype(np.float32)
    layer = BN(drivers, x.shape, False, np.float32, momentum=0.0)
    y = layer.forward(x)
    exact = x.astype(np.float64)
    mean = exact.mean((0, 2, 3), keepdims=True)
    inv_std = 1 / np.sqrt(exact.var((0, 2, 3), keepdims=True) + 1e-5)
    expected = (exact - mean) * inv_std * layer.slope.reshape(1, 3, 1, 1) + layer.bias.reshape(1, 3, 1, 1)
    assert (y[:, 0] == layer.bias[0]).all()
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(layer.moving_inv_std, inv_std.ravel(), rtol=1e-6)
    np.testing.assert_allclose(layer.moving_mean, mean.ravel(), rtol=1e-7)


def test_bn_of_one_value(drivers):
    x = np.array([[3.5, -1e30]], np.float32)
    layer = BN(drivers, x.shape, False, np.float32, momentum=0.0)
    assert (layer.forward(x)[0] == layer.bias).all()
    np.testing.assert_allclose(layer.moving_inv_std, 1e-5 ** -0.5, rtol=1e-6)
    assert (layer.backward(x, np.ones_like(x))[2] == 0).all()


def check_against_double(drivers, x, digits=2e-6):
    """Batch statistics and output of x (N, C, ...) beside the same in double."""
    layer = BN(drivers, x.shape, False, np.float32, momentum=0.0)
    y = layer.forward(x)
    axes, each = (0, *range(2, x.ndim)), (1, -1) + (1,) * (x.ndim - 2)
    exact = x.astype(np.float64)
    mean = exact.mean(axes, keepdims=True)
    inv_std = 1 / np.sqrt(exact.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer.moving_inv_std, inv_std.ravel(), rtol=digits)
    np.testing.assert_allclose(layer.moving_mean, mean.ravel(), rtol=digits, atol=digits)
    normalised = (exact - mean) * inv_std
    np.testing.assert_allclose(y - layer.bias.reshape(each), normalised * layer.slope.reshape(each), rtol=1e-5,
                               atol=digits * max(1, np.abs(normalised).max()))


SHIFTS = [0, 1000, -3e7]


@pytest.mark.parametrize("offset", SHIFTS)
@pytest.mark.parametrize("shape", [(6, 70, 49), (2, 3, 1500), (1, 5, 16), (64, 9), (3, 33, 513)])
def test_bn_of_any_shape_and_offset(drivers, shape, offset):
    """Runs that fill no vector, groups of channels, blocks of sums; at -3e7 neighbouring values are 2 apart."""
    rng = np.random.default_rng(9)
    spread = 100 if abs(offset) > 1e6 else 1
    check_against_double(drivers, (offset + spread * rng.standard_normal(shape)).astype(np.float32))


def test_bn_where_the_first_image_is_far_from_the_others(drivers):
    """The shift of the sums is that of the first image; it must not cost digits where it is a poor one."""
    rng = np.random.default_rng(10)
    x = rng.standard_normal((50, 4, 20)).astype(np.float32)
    x[0] += np.array([0, 50, 1e4, 1e7], np.float32)[:, None]
    check_against_double(drivers, x)


def test_bn_of_values_whose_squares_no_float_holds(drivers):
    x = np.random.default_rng(11).standard_normal((8, 3, 30)).astype(np.float32) * np.float32(1e25)
    layer = BN(drivers, x.shape, False, np.float32)
    y = layer.forward(x)
    exact = x.astype(np.float64)
    expected = (exact - exact.mean((0, 2), keepdims=True)) / exact.std((0, 2), keepdims=True)
    found = (y - layer.bias.reshape(1, 3, 1)) / layer.slope.reshape(1, 3, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_bn_of_one_large_array(drivers):
    """Large enough to be written past the caches, from every place of a cache line on."""
    rng = np.random.default_rng(12)
    x = rng.standard_normal((2, 3, 700001), dtype=np.float32)
    check_against_double(drivers, x)
    layer = BN(drivers, x.shape, False, np.float32)
    layer.forward(x)
    apart, dy = layer.backward(x, x), x.copy()
    assert layer.backward(x, dy, dx=dy)[2].tobytes() == apart[2].tobytes()
    # y = (x - mu) s, pulled back along itself, leaves only what eps takes away.
    assert np.abs(apart[2]).max() < 1e-4


ONE_PASS = """
import ctypes, hashlib, sys
import numpy as np
library, rng = ctypes.CDLL(sys.argv[1]), np.random.default_rng(5)
pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
dims, eps, momentum = np.array([4, 7, 2500]), ctypes.c_double(1e-5), ctypes.c_double(0.9)
x, y, dy, dx = rng.standard_normal((4, 4, 7, 2500)).astype("f4")
slope, bias, mean, high_low, inv_std, m, v = rng.standard_normal((7, 14)).astype("f4")
library.bn_batch_forward_f(*map(pointer, (dims,)), eps, momentum,
                           *map(pointer, (x, slope, bias, y, high_low, inv_std, m, v)))
library.bn_batch_backward_f(*map(pointer, (dims, x, dy, slope, high_low, inv_std, mean, bias, dx)))
planes, small = np.array([28, 50, 50, 99, 99]), np.empty((28, 50, 50), "f4")
large = np.empty((28, 99, 99), "f4")
library.interp_f(pointer(planes), 0, 0, 0, pointer(x), pointer(large))
library.interp_f(pointer(planes), 0, 0, 1, pointer(large), pointer(small))
parts = (y, dx, mean, bias, m, v, large, small)
print(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest())
"""


def test_results_do_not_depend_on_the_number_of_threads(library):
    outcomes = set()
    for threads in ("1", "2", "3", ""):
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", ONE_PASS, str(library)], env=environment, capture_output=True,
                              text=True, check=True)
        outcomes.add(done.stdout)
    assert len(outcomes) == 1


def interp(drivers, x, out, crop=(0, 0), dy=None):
    """Resize the planes x (P, H, W) to ``out`` (H', W'), or pull dy (P, H', W') back to the size of x."""
    dims = [*x.shape, *out]
    result = np.empty((len(x), *out), x.dtype) if dy is None else np.full_like(x, 7)
    drivers("interp", dims, *crop, int(dy is not None), x if dy is None else dy, result)
    return result


def bilinear(x, out):
    """The definition, in double, with positions in float32."""
    def taps(n_in, n_out):
        step = np.float32(n_in - 1) / np.float32(n_out - 1) if n_out > 1 else np.float32(0)
        matrix = np.zeros((n_out, n_in))
        for i in range(n_out):
            position = float(np.float32(i) * step)
            low = min(int(position), n_in - 1)
            matrix[i, low] += 1 - (position - low)
            matrix[i, min(low + 1, n_in - 1)] += position - low
        return matrix

    return np.einsum("ih,phw,jw->pij", taps(x.shape[1], out[0]), x.astype(np.float64), taps(x.shape[2], out[1]))


SIZES = [((7, 7), (14, 14)), ((14, 14), (7, 7)), ((5, 7), (1, 9)), ((1, 1), (4, 3)), ((1, 6), (6, 1)),
         ((56, 3), (55, 4)), ((4, 9), (8, 20)), ((3, 17), (9, 18)), ((9, 8), (3, 64)), ((6, 1), (5, 8)),
         ((12, 33), (25, 16))]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size, out", SIZES)
def test_interp_is_bilinear_and_its_backward_pass_is_the_transpose(drivers, size, out, dtype):
    rng = np.random.default_rng(6)
    x, dy = rng.standard_normal((3, *size)).astype(dtype), rng.standard_normal((3, *out)).astype(dtype)
    digits = 1e-6 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(interp(drivers, x, out), bilinear(x, out), rtol=digits, atol=digits)
    forward = (bilinear(x, out) * dy).sum()
    backward = (interp(drivers, x, out, dy=dy).astype(np.float64) * x).sum()
    assert backward == pytest.approx(forward, rel=10 * digits, abs=10 * digits)


def plain_interp(x, out, dy):
    """Both passes in the type of x, pixel by pixel and in the order of the definition: the very same bits."""
    def taps(n_in, n_out):
        step = np.float32(n_in - 1) / np.float32(n_out - 1) if n_out > 1 else np.float32(0)
        for i in range(n_out):
            position = np.float32(step * np.float32(i))
            low = min(int(position), n_in - 1)
            weight = x.dtype.type(position - np.float32(low))
            yield i, low, min(low + 1, n_in - 1), x.dtype.type(1) - weight, weight

    y, dx = np.empty((len(x), *out), x.dtype), np.zeros_like(x)
    for i, top, bottom, upper, lower in taps(x.shape[1], out[0]):
        for j, left, right, near, far in taps(x.shape[2], out[1]):
            y[:, i, j] = (upper * (near * x[:, top, left] + far * x[:, top, right]) +
                          lower * (near * x[:, bottom, left] + far * x[:, bottom, right]))
            for row, column, weight in ((top, left, upper * near), (top, right, upper * far),
                                        (bottom, left, lower * near), (bottom, right, lower * far)):
                dx[:, row, column] += weight * dy[:, i, j]
    return y, dx


@pytest.mark.parametrize("planes", [1, 16, 37])
@pytest.mark.parametrize("size, out", SIZES)
def test_interp_rounds_as_the_definition_does(drivers, size, out, planes):
    rng = np.random.default_rng(13)
    for dtype in (np.float32, np.float64):
        x, dy = rng.standard_normal((planes, *size)).astype(dtype), rng.standard_normal((planes, *out)).astype(dtype)
        y, dx = plain_interp(x, out, dy)
        assert interp(drivers, x, out).tobytes() == y.tobytes()
        assert interp(drivers, x, out, dy=dy).tobytes() == dx.tobytes()
        wide = rng.standard_normal((planes, size[0] + 3, size[1] + 3)).astype(dtype)
        wide[:, 1:-2, 1:-2] = x
        assert interp(drivers, wide, out, (1, 2)).tobytes() == y.tobytes()
        pulled = interp(drivers, wide, out, (1, 2), dy)
        assert pulled[:, 1:-2, 1:-2].tobytes() == dx.tobytes()
        pulled[:, 1:-2, 1:-2] = 0
        assert not pulled.any()


@pytest.mark.parametrize("size, out", SIZES)
def test_interp_carries_infinities_only_where_they_are_read(drivers, size, out):
    x = np.zeros((9, *size), np.float32)
    x[4, size[0] // 2, size[1] // 2] = np.inf
    y = interp(drivers, x, out)
    assert not y[:4].any() and not y[5:].any()
    dy = np.zeros((9, *out), np.float32)
    dy[4, out[0] // 2, out[1] // 2] = np.inf
    dx = interp(drivers, x, out, dy=dy)
    assert not dx[:4].any() and not dx[5:].any() and np.count_nonzero(dx[4]) <= 4


def test_interp_gradient(drivers):
    rng = np.random.default_rng(7)
    x, dy = rng.standard_normal((2, 6, 5)), rng.standard_normal((2, 7, 3))
    expected = numeric(lambda: float((interp(drivers, x, (7, 3), (1, 2)) * dy).sum()), x, step=1e-3)
    np.testing.assert_allclose(interp(drivers, x, (7, 3), (1, 2), dy), expected, rtol=1e-9, atol=1e-9)


def test_interp_copies_equal_sizes_exactly(drivers):
    x = np.random.default_rng(8).standard_normal((2, 9, 8)).astype(np.float32)
    x[0, 4, 4], x[1, 5, 5] = np.inf, np.nan
    assert interp(drivers, x, (9, 8)).tobytes() == x.tobytes()
    assert interp(drivers, x, (5, 4), (1, 3)).tobytes() == np.ascontiguousarray(x[:, 1:6, 1:5]).tobytes()
    back = interp(drivers, x, (5, 4), (1, 3), dy=np.ones((2, 5, 4), np.float32))
    assert back.sum() == 40 and (back[:, 1:6, 1:5] == 1).all()
