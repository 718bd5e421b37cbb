"""Q4_K, the blocks of 4 bits that most GGUF files have: an encoder, which the `gguf` package lacks.

A block holds 256 numbers of a row in 144 bytes: two float16, d and dmin; 12 bytes with a scale and
a minimum of 6 bits for each part of 32 numbers; 128 bytes with a number q of 4 bits for each. The
value is d * scale * q - dmin * minimum (`block_q4_K` in llama.cpp's ggml/src/ggml-common.h).
"""

import numpy as np

BLOCK = 256  # numbers; rows are multiples of it


def quantize(array):
    """The bytes, uint8 [rows, columns / 256 * 144], of float32 [rows, columns]."""
    parts = array.astype(np.float32).reshape(-1, 8, 32)
    minima = np.maximum(-parts.min(axis=-1), 0.0)
    scales = np.maximum(parts.max(axis=-1) + minima, 1e-8) / 15
    d, scales = _six_bits(scales)
    dmin, minima = _six_bits(minima)
    step = d.astype(np.float32)[:, None] * scales
    shift = dmin.astype(np.float32)[:, None] * minima
    q = (parts + shift[..., None]) / np.where(step > 0, step, 1.0)[..., None]
    q = np.clip(np.rint(q), 0, 15).astype(np.uint8)
    pairs = q.reshape(-1, 4, 2, 32)  # two parts share 32 bytes: low halves, then high halves
    nibbles = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).reshape(-1, 128)
    heads = np.stack([d, dmin], axis=-1).view(np.uint8)
    blocks = np.concatenate([heads, _packed(scales, minima), nibbles], axis=-1)
    return blocks.reshape(len(array), -1)


def _six_bits(values):
    """The float16 unit of each block, and the values [blocks, 8] in it, uint8 below 64."""
    unit = (values.max(axis=-1) / 63).astype(np.float16)
    divisor = np.where(unit > 0, unit, 1).astype(np.float32)[:, None]
    return unit, np.clip(np.rint(values / divisor), 0, 63).astype(np.uint8)


def _packed(scales, minima):
    """The 12 bytes: the first four of each with the upper bits of the last four above them."""
    first = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    second = minima[:, :4] | (minima[:, 4:] >> 4 << 6)
    third = (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=-1)
