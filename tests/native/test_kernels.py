"""The GPU's kernels of BN and Interp on the host, against the CPU drivers.

They run as they would on the GPU, but one thread after the other, in three orders: a thread that read what another
writes in the same step, or two that wrote the same value, would make results differ. Needs a C++ compiler only.
"""

import ctypes
import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prototxt_gen.train.caffe_needs import compiler
from prototxt_gen.train.caffe_source import NATIVE_DIR

HERE = Path(__file__).parent
LAYERS = NATIVE_DIR / "layers"
# No product is fused with a sum, as in the CPU drivers and in the build for the GPU.
FLAGS = ["-std=c++17", "-O2", "-ffp-contract=off", "-fno-trapping-math",
         "-fopenmp-simd", "-pthread", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
ORDERS = range(3)
DIGITS = {np.float32: 2e-6, np.float64: 1e-12}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """The CPU drivers and the GPU's, both for the host."""
    path = tmp_path_factory.mktemp("kernels") / "kernels.so"
    sources = [HERE / "drivers.cpp", HERE / "kernels.cpp", *sorted(LAYERS.glob("*_cpu.cpp")), LAYERS / "parallel.cpp"]
    command = [*compiler(), *FLAGS, f"-I{LAYERS}", *map(str, sources), "-o", str(path)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(path))


@pytest.fixture
def call(library):
    return caller(library)


def caller(library):
    """Call a driver by name: array arguments become pointers, and the dtype picks float or double."""

    def run(name, dtype, dims, *arguments):
        given = [np.asarray(dims, np.int64).ctypes.data_as(ctypes.c_void_p)]
        for value in arguments:
            if isinstance(value, np.ndarray):
                assert value.flags.c_contiguous and value.dtype == dtype
                given.append(value.ctypes.data_as(ctypes.c_void_p))
            else:
                given.append(ctypes.c_double(value) if isinstance(value, float) else value)
        getattr(library, f"{name}_{'f' if dtype == np.float32 else 'd'}")(*given)

    return run


class Layer:
    """A BN with its arrays; every call works on copies of what it changes, and returns those."""

    def __init__(self, call, shape, dtype, seed=0):
        rng = np.random.default_rng(seed)
        self.call, self.dtype = call, dtype
        self.dims = [shape[0], shape[1], int(np.prod(shape[2:], dtype=int))]
        self.x, self.dy = (100 + rng.standard_normal(shape)).astype(dtype), rng.standard_normal(shape).astype(dtype)
        self.slope, self.bias, self.slope_diff, self.bias_diff, self.moving_mean = rng.standard_normal(
            (5, shape[1])).astype(dtype)
        self.moving_inv_std = rng.uniform(0.5, 2, shape[1]).astype(dtype)

    def batch_forward(self, prefix):
        """Return y, mean, inv_std, moving_mean, moving_inv_std."""
        out = [np.full_like(self.x, np.nan), np.full((self.dims[1], 2), np.nan, self.dtype),
               np.full_like(self.slope, np.nan), self.moving_mean.copy(), self.moving_inv_std.copy()]
        self.call(f"{prefix}bn_batch_forward", self.dtype, self.dims, 1e-5, 0.9, self.x, self.slope, self.bias, *out)
        return out

    def fixed_forward(self, prefix, in_place=False):
        x = self.x.copy()
        y = x if in_place else np.full_like(x, np.nan)
        self.call(f"{prefix}bn_fixed_forward", self.dtype, self.dims, x, self.slope, self.bias, self.moving_mean,
                  self.moving_inv_std, y)
        return [y]

    def backward(self, prefix, fixed, wanted=(True, True, True), in_place=False):
        """Return the differences of slope, bias and x, None for those that are not wanted."""
        dy = self.dy.copy()
        out = [self.slope_diff.copy(), self.bias_diff.copy(), dy if in_place else np.full_like(dy, np.nan)]
        out = [one if want else None for one, want in zip(out, wanted)]
        statistics = [self.moving_mean, self.moving_inv_std] if fixed else self.batch_forward("")[1:3]
        x = None if fixed and not wanted[0] else self.x
        self.call(f"{prefix}bn_{'fixed' if fixed else 'batch'}_backward", self.dtype, self.dims, x, dy, self.slope,
                  *statistics, *out)
        return out

    def summed(self):
        """Return the largest sums of magnitudes behind what everything() returns, 0 where it is no sum."""
        axes = tuple(axis for axis in range(self.x.ndim) if axis != 1)
        channel = (1, -1, *[1] * (self.x.ndim - 2))
        sums = [0.0] * 6
        for mean, inv_std in ((self.x.mean(axes), 1 / np.sqrt(self.x.var(axes) + 1e-5)),
                              (self.moving_mean, self.moving_inv_std)):
            products = np.abs(self.dy * (self.x - mean.reshape(channel)) * inv_std.reshape(channel))
            sums += [float(products.sum(axes).max()), float(np.abs(self.dy).sum(axes).max()), 0.0]
        return sums

    def everything(self, prefix):
        return [*self.batch_forward(prefix), *self.fixed_forward(prefix), *self.backward(prefix, False),
                *self.backward(prefix, True)]


def agree(found, expected, dtype, summed=()):
    """``summed`` holds the magnitudes that sums are made of: their rounding is to be seen beside those."""
    assert len(found) == len(expected)
    for one, other, magnitude in itertools.zip_longest(found, expected, summed, fillvalue=0):
        if other is not None:
            scale = max(1.0, float(np.abs(other).max()), magnitude / 10)
            np.testing.assert_allclose(one, other, rtol=DIGITS[dtype], atol=DIGITS[dtype] * scale)


def same_bits(found, expected):
    return all((a is None and b is None) or a.tobytes() == b.tobytes() for a, b in zip(found, expected))


SHAPES = [(3, 4, 5, 6), (7, 3), (2, 3, 4), (2, 2, 3, 2, 2), (5, 1, 1, 1), (1, 1), (2, 300, 3), (40, 2, 7, 7),
          (1, 2, 90, 91), (3, 2, 16, 16)]


@pytest.mark.parametrize("dtype", DIGITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_bn_agrees_with_the_cpu_on_every_grid(library, call, shape, dtype):
    layer = Layer(call, shape, dtype)
    expected = layer.everything("")
    for threads, slices in itertools.product((1, 4, 32, library.max_threads()), (0, 1, 3)):
        first = None
        for order in ORDERS:
            library.set_grid(threads, slices, order)
            found = layer.everything("grid_")
            if first is None:
                first = found
                agree(found, expected, dtype, layer.summed())
            assert same_bits(found, first), f"{threads} threads, {slices} slices, order {order}"
        assert library.set_grid(threads, slices, 0) > 0


@settings(max_examples=60, deadline=None)
@given(batch=st.integers(1, 9), channels=st.integers(1, 6), spatial=st.integers(1, 700), slices=st.integers(0, 9),
       threads=st.sampled_from([1, 2, 8, 64, 256]), order=st.sampled_from(ORDERS), seed=st.integers(0, 99))
def test_bn_agrees_with_the_cpu_at_any_size(library, batch, channels, spatial, slices, threads, order, seed):
    layer = Layer(caller(library), (batch, channels, spatial), np.float32, seed)
    library.set_grid(threads, slices, order)
    agree(layer.everything("grid_"), layer.everything(""), np.float32, layer.summed())


@pytest.mark.parametrize("fixed", [False, True])
def test_bn_differences_that_are_not_wanted_are_not_touched(library, call, fixed):
    layer = Layer(call, (3, 4, 5, 6), np.float32)
    library.set_grid(library.max_threads(), 2, 0)
    whole = layer.backward("grid_", fixed)
    for wanted in itertools.product([False, True], repeat=3):
        expected = [one if want else None for one, want in zip(whole, wanted)]
        assert same_bits(layer.backward("grid_", fixed, wanted), expected)


@pytest.mark.parametrize("order", ORDERS)
def test_bn_in_place(library, call, order):
    layer = Layer(call, (3, 4, 5, 6), np.float32)
    library.set_grid(32, 3, order)
    assert same_bits(layer.fixed_forward("grid_", in_place=True), layer.fixed_forward("grid_"))
    for fixed in (False, True):
        assert same_bits(layer.backward("grid_", fixed, in_place=True), layer.backward("grid_", fixed))


@pytest.mark.parametrize("first", [0, 1, 1e4])
def test_bn_keeps_digits_beside_an_offset(library, call, first):
    """A mean of 1000 beside small deviations, and a first value, from which sums start, far from all others."""
    layer = Layer(call, (4, 3, 16, 16), np.float32)
    noise = np.random.default_rng(4).standard_normal(layer.x.shape) * np.array([0, 1e-3, 1]).reshape(1, 3, 1, 1)
    layer.x = (1000 + noise).astype(np.float32)
    layer.x[0, :, 0, 0] += np.float32(first)
    library.set_grid(library.max_threads(), 0, 0)
    y, mean, inv_std, _, _ = layer.batch_forward("grid_")
    exact = layer.x.astype(np.float64)
    mu, s = exact.mean((0, 2, 3)), 1 / np.sqrt(exact.var((0, 2, 3)) + 1e-5)
    np.testing.assert_allclose(mean.astype(np.float64).sum(1), mu, rtol=1e-12)
    np.testing.assert_allclose(inv_std, s, rtol=1e-6)
    across = [values.reshape(1, 3, 1, 1) for values in (mu, s, layer.slope, layer.bias)]
    expected = (exact - across[0]) * across[1] * across[2] + across[3]
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6)
    assert first or (y[:, 0] == layer.bias[0]).all()


def test_bn_of_nan_is_nan(library, call):
    layer = Layer(call, (2, 3, 4), np.float32)
    layer.x[1, 1, 2] = np.nan
    library.set_grid(32, 0, 0)
    y, _, inv_std, moving_mean, moving_inv_std = layer.batch_forward("grid_")
    for values in (y.transpose(1, 0, 2), inv_std, moving_mean, moving_inv_std):
        assert np.isnan(values[1]).all() and np.isfinite(values[[0, 2]]).all()


def interp(call, prefix, values, size, out, crop=(0, 0), backward=False):
    """Resize planes (P, H, W) to (P, *out), or pull differences (P, *out) back to (P, *size)."""
    result = np.full((len(values), *(size if backward else out)), np.nan, values.dtype)
    call(f"{prefix}interp", values.dtype.type, [len(values), *size, *out], *crop, int(backward), values, result)
    return result


SIZES = [((7, 7), (14, 14), (0, 0)), ((14, 14), (7, 7), (0, 0)), ((5, 7), (1, 9), (0, 0)), ((1, 1), (4, 3), (0, 0)),
         ((1, 6), (6, 1), (0, 0)), ((56, 3), (55, 4), (0, 0)), ((9, 8), (9, 8), (0, 0)), ((9, 8), (6, 5), (1, 2)),
         ((9, 8), (13, 2), (1, 2)), ((2, 2), (200, 3), (0, 0)), ((300, 3), (2, 2), (0, 0))]


@pytest.mark.parametrize("dtype", DIGITS)
@pytest.mark.parametrize("size, out, crop", SIZES)
def test_interp_agrees_with_the_cpu(library, call, size, out, crop, dtype):
    rng = np.random.default_rng(6)
    x, dy = rng.standard_normal((5, *size)).astype(dtype), rng.standard_normal((5, *out)).astype(dtype)
    for backward, values in ((False, x), (True, dy)):
        expected = interp(call, "", values, size, out, crop, backward)
        for threads, order in itertools.product((1, 32, library.max_threads()), ORDERS):
            library.set_grid(threads, 0, order)
            agree([interp(call, "grid_", values, size, out, crop, backward)], [expected], dtype)


@settings(max_examples=150, deadline=None)
@given(size=st.tuples(st.integers(1, 70), st.integers(1, 70)), out=st.tuples(st.integers(1, 90), st.integers(1, 90)),
       crop=st.tuples(st.integers(0, 3), st.integers(0, 3)), planes=st.integers(1, 3))
def test_interp_agrees_with_the_cpu_at_any_size(library, size, out, crop, planes):
    run = caller(library)
    size = tuple(n + sum(crop) for n in size)
    rng = np.random.default_rng(sum(size) + sum(out))
    x, dy = rng.standard_normal((planes, *size)), rng.standard_normal((planes, *out))
    library.set_grid(64, 0, 2)
    for backward, values in ((False, x), (True, dy)):
        agree([interp(run, "grid_", values, size, out, crop, backward)],
              [interp(run, "", values, size, out, crop, backward)], np.float64)


def test_interp_copies_equal_sizes_exactly(library, call):
    x = np.random.default_rng(8).standard_normal((2, 9, 8)).astype(np.float32)
    x[0, 4, 4], x[1, 5, 5] = np.inf, np.nan
    library.set_grid(32, 0, 0)
    assert interp(call, "grid_", x, (9, 8), (9, 8)).tobytes() == x.tobytes()
    inner = np.ascontiguousarray(x[:, 1:6, 1:5])
    assert interp(call, "grid_", x, (9, 8), (5, 4), (1, 3)).tobytes() == inner.tobytes()
