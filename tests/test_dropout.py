"""Dropout: Philox against its published answers, the mask against Philox in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compare import LAYOUTS, LAYOUTS_2D, Unchanged, random_array

from numbaconv import functional, layout_of, parallel
from numbaconv.cpu.dropout import BLOCK, BLOCKS
from numbaconv.cpu.philox import philox4x32
from numbaconv.errors import ArgumentError, DTypeError

# Random123's tests/kat_vectors, philox4x32 with 10 rounds: counter, key, answer
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox_by_the_paper(counter, key):
    """Philox4x32-10 in Python's integers, after Salmon et al. 2011, section 3.3."""
    c, k = list(counter), list(key)
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [second >> 32 ^ c[1] ^ k[0], second % 2**32, first >> 32 ^ c[3] ^ k[1], first % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return tuple(c)


def kept(element, p, seed, layer, step):
    quad, word = divmod(element, 4)
    words = philox_by_the_paper((quad % 2**32, quad >> 32, layer, step), (seed % 2**32, seed >> 32))
    return (words[word] >> 8) * 2.0**-24 >= p


def expected_mask(size, p, seed, layer=0, step=0):
    return np.array([kept(element, p, seed, layer, step) for element in range(size)])


@pytest.mark.reduced
@pytest.mark.parametrize(("counter", "key", "answer"), PUBLISHED)
def test_philox_gives_the_published_answers(counter, key, answer):
    assert philox_by_the_paper(counter, key) == answer
    words = philox4x32(*(np.uint64(word) for word in (*counter, *key)))
    assert tuple(int(word) for word in words) == answer


@pytest.mark.reduced
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("p", "seed", "layer", "step"),
    [(0.5, 0, 0, 0), (0.1, 2**64 - 1, 2**32 - 1, 2**32 - 1), (0.75, 0x299F31D0A4093822, 7, 123456), (1e-3, 1, 2, 3)],
)
def test_mask_is_a_function_of_seed_layer_step_element(p, seed, layer, step, dtype, rng):
    x = random_array(rng, (3, 2, 7, 13), dtype)
    mask = expected_mask(x.size, p, seed, layer, step).reshape(x.shape)
    expected = np.where(mask, x * x.dtype.type(1 / (1 - p)), 0)
    with Unchanged(x):
        np.testing.assert_array_equal(functional.dropout(x, p, seed=seed, layer=layer, step=step), expected)
        backward = functional.dropout_backward(x, p, seed=seed, layer=layer, step=step)
    np.testing.assert_array_equal(backward, expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK * BLOCKS + 3])
def test_any_size(size):
    """The numbers of a shorter array are the first of a longer one; the last is checked by the paper."""
    y = functional.dropout(np.ones(size, "float32"), 0.5, seed=3)
    longest = functional.dropout(np.ones(BLOCK * BLOCKS + 100, "float32"), 0.5, seed=3)
    np.testing.assert_array_equal(y, longest[:size])
    assert y[-1] == 2 * kept(size - 1, 0.5, 3, 0, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout, rng):
    """The mask follows the logical order, the result's memory the input's."""
    x = LAYOUTS[layout](random_array(rng, (2, 3, 5, 7), "float32"))
    mask = expected_mask(x.size, 0.25, 11).reshape(x.shape)
    with Unchanged(x):
        y = functional.dropout(x, 0.25, seed=11)
    np.testing.assert_array_equal(y, np.where(mask, x * np.float32(1 / 0.75), 0))
    assert layout_of(y) == layout_of(np.asarray(x, "float32"))
    assert y.flags.writeable
    assert not np.shares_memory(x, y)


@pytest.mark.parametrize("layout", LAYOUTS_2D)
@pytest.mark.parametrize("shape", [(0,), (11,), (3, 5), (2, 3, 4), (0, 3, 4, 5), (2, 1, 3, 2, 2)], ids=str)
def test_any_rank(shape, layout, rng):
    x = LAYOUTS_2D[layout](random_array(rng, shape, "float32"))
    mask = expected_mask(x.size, 0.5, 0).reshape(shape)
    np.testing.assert_array_equal(functional.dropout(x, seed=0), np.where(mask, x * np.float32(2), 0))


def test_p_0_and_1(rng):
    x = random_array(rng, (4, 100), "float32")
    y = functional.dropout(x, 0.0, seed=5)
    np.testing.assert_array_equal(y, x)
    assert not np.shares_memory(x, y)
    np.testing.assert_array_equal(functional.dropout(x, 1.0, seed=5), np.zeros_like(x))


def test_share_of_zeros_and_mean():
    """Of 2^20 elements the share of zeros is within five standard deviations; and seeds, layers, steps differ."""
    x = np.ones(2**20, "float32")
    masks = []
    for p in (0.1, 0.5, 0.9):
        y = functional.dropout(x, p, seed=2024)
        assert abs(np.mean(y == 0) - p) < 5 * math.sqrt(p * (1 - p) / x.size)
        np.testing.assert_array_equal(y[y != 0], np.float32(1 / (1 - p)))
    for key in ({"seed": 0}, {"seed": 1}, {"seed": 2**32}, {"seed": 0, "layer": 1}, {"seed": 0, "step": 1}):
        masks.append(functional.dropout(x, 0.5, **key) == 0)
    for i, first in enumerate(masks):
        for second in masks[:i]:
            assert abs(np.mean(first == second) - 0.5) < 5 * 0.5 / math.sqrt(x.size)


def test_nan_and_inf_as_pytorch(rng):
    """PyTorch multiplies by the mask: NaN and inf are NaN where they are dropped, and stay where they are kept."""
    torch = pytest.importorskip("torch")
    x = np.repeat(np.array([np.nan, np.inf, -np.inf], "float32"), 50)
    mask = expected_mask(x.size, 0.5, 9)
    expected = torch.from_numpy(x) * torch.from_numpy(mask * np.float32(2))
    np.testing.assert_array_equal(functional.dropout(x, 0.5, seed=9), expected.numpy())
    everything = torch.nn.functional.dropout(torch.from_numpy(x), 1.0)
    np.testing.assert_array_equal(functional.dropout(x, 1.0, seed=9), everything.numpy())


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_serial_and_parallel_agree_in_every_bit(layout, rng, monkeypatch):
    x = LAYOUTS[layout](random_array(rng, (3, 5, 61, 59), "float32"))
    results = []
    for work in (float("inf"), 0.0):
        monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", work)
        results.append(functional.dropout(x, 0.3, seed=1, layer=2, step=3).tobytes())
    assert results[0] == results[1]


def test_bad_input():
    x = np.ones((2, 3), "float32")
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ArgumentError, match=r"^dropout: p must be from 0 to 1; got p="):
            functional.dropout(x, p, seed=0)
    with pytest.raises(ArgumentError, match=r"p must be a number; got p='half'"):
        functional.dropout(x, "half", seed=0)
    with pytest.raises(ArgumentError, match=r"seed must be less than 2\^64; got seed=18446744073709551616"):
        functional.dropout(x, seed=2**64)
    with pytest.raises(ArgumentError, match=r"^dropout_backward: layer must be less than 2\^32"):
        functional.dropout_backward(x, seed=0, layer=2**32)
    with pytest.raises(ArgumentError, match=r"step must be at least 0; got step=-1"):
        functional.dropout(x, seed=0, step=-1)
    with pytest.raises(ArgumentError, match=r"seed must be an int; got seed=1.5"):
        functional.dropout(x, seed=1.5)
    with pytest.raises(DTypeError, match=r"grad_output must be float32 or float64"):
        functional.dropout_backward(np.ones(3, "int64"), seed=0)
    with pytest.raises(TypeError, match="seed"):
        functional.dropout(x)
    np.testing.assert_array_equal(functional.dropout(x, seed=np.int64(3)), functional.dropout(x, seed=3))
