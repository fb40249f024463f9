"""The vector type against numpy, in float64 where rounding matters."""

from __future__ import annotations

import numpy as np
from numba import njit

from models.rendering import simd

LANES = np.arange(16, dtype=np.float32)


@njit
def arithmetic(x, y, out):
    a, b = simd.load(x, 0), simd.load(y, 0)
    c = a + b * 2.0 - 3.0 / b
    c += 1
    c = -c * 0.5
    simd.store(out, 0, c)
    simd.store(out, 16, simd.fma(a, b, -1.0))
    simd.store(out, 32, simd.minimum(a, b))
    simd.store(out, 48, simd.maximum(a, 4.0))
    inside = (a >= 3.0) & ~(b < 5.0)
    inside &= a <= 14.0
    simd.store(out, 64, simd.select(inside, a, 0.0))
    return simd.mask_bits(inside), simd.any_lane(inside & (a > 20.0))


@njit
def powers(x, out):
    simd.store(out, 0, simd.exp2(simd.load(x, 0)))


@njit
def logarithms(x, out):
    simd.store(out, 0, simd.log2_roughly(simd.load(x, 0)))


@njit
def reshaped(rows, turned, sums):
    columns = simd.transpose(
        (
            simd.load(rows, 0), simd.load(rows, 16), simd.load(rows, 32), simd.load(rows, 48),
            simd.load(rows, 64), simd.load(rows, 80), simd.load(rows, 96), simd.load(rows, 112),
            simd.load(rows, 128), simd.load(rows, 144), simd.load(rows, 160), simd.load(rows, 176),
            simd.load(rows, 192), simd.load(rows, 208), simd.load(rows, 224), simd.load(rows, 240),
        )
    )  # fmt: skip
    for i in range(16):
        simd.store(turned, 16 * i, columns[i])
    simd.store(sums, 0, simd.sum_each((simd.load(rows, 0), simd.load(rows, 16), columns[0])))


@njit
def bit_work(first, last, bits, out):
    simd.store(out, 0, simd.packed_pairs(simd.load(first, 0), simd.load(first, 0) + 1.0))
    below = simd.bits_below(np.int32(2 + 3 * 65536), simd.load(out, 0))
    return (
        simd.byte_spans(simd.load(first, 0), simd.load(last, 0)),
        simd.lowest_bit(bits),
        simd.mask_bits(below),
    )


def test_arithmetic_broadcasts_and_compares() -> None:
    x, y, out = LANES, LANES[::-1] + np.float32(0.5), np.zeros(80, np.float32)
    bits, none = arithmetic(x, y, out)
    np.testing.assert_allclose(out[:16], -0.5 * (x + y * 2 - 3 / y + 1), rtol=1e-6)
    np.testing.assert_array_equal(out[16:32], x * y - 1)
    np.testing.assert_array_equal(out[32:48], np.minimum(x, y))
    np.testing.assert_array_equal(out[48:64], np.maximum(x, 4))
    inside = (x >= 3) & (y >= 5) & (x <= 14)
    np.testing.assert_array_equal(out[64:], np.where(inside, x, 0))
    assert bits == sum(1 << i for i in range(16) if inside[i])
    assert not none


def test_exp2_is_accurate_to_float32_rounding() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 20.0, 120.0):
        x = (-scale * rng.random(16)).astype(np.float32)
        out = np.zeros(16, np.float32)
        powers(x, out)
        np.testing.assert_allclose(out, np.exp2(x.astype(np.float64)), rtol=2e-7)
    powers(np.full(16, -1e9, np.float32), out)
    assert ((out >= 0) & (out < 1e-37)).all()


def test_log2_is_rough_but_close() -> None:
    x, out = np.geomspace(1e-4, 10, 16).astype(np.float32), np.zeros(16, np.float32)
    logarithms(x, out)
    np.testing.assert_allclose(out, np.log2(x.astype(np.float64)), atol=3e-5)


def test_transpose_and_sums() -> None:
    rows = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32)
    turned, sums = np.zeros(256, np.float32), np.zeros(16, np.float32)
    reshaped(rows.ravel(), turned, sums)
    np.testing.assert_array_equal(turned.reshape(16, 16), rows.T)
    expected = [rows[0].sum(), rows[1].sum(), rows[:, 0].sum()]
    np.testing.assert_allclose(sums[:3], expected, rtol=1e-5)
    np.testing.assert_array_equal(sums[3:], 0)


def test_bits() -> None:
    rng = np.random.default_rng(2)
    first = rng.integers(0, 9, 16).astype(np.float32)
    last = rng.integers(-1, 8, 16).astype(np.float32)
    out = np.zeros(16, np.float32)
    spans, lowest, below = bit_work(first, last, np.uint64(0b1011000), out)
    for i, byte in enumerate(int(spans).to_bytes(8, "little")):
        assert byte == sum(1 << bit for bit in range(int(first[i]), int(last[i]) + 1))
    assert lowest == 3
    packed = first.astype(np.int32) | (first.astype(np.int32) + 1) << 16
    np.testing.assert_array_equal(out.view(np.int32), packed)
    assert below == sum(1 << i for i in range(16) if packed[i] > 2 + 3 * 65536)
