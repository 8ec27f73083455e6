"""What can be told of a sample without any model: a few plain numbers, by which the blind control tells sides apart."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from ldm_scale.data.images import SIGNATURE, format_of
from ldm_scale.schema import FORMATS, PLAIN


def plain_features(
    image: bytes,
    captions: Sequence[str],
    label: int | None,
    size: tuple[int, int] | None,
    pixels: UInt8[np.ndarray, "3 H W"] | None,
) -> Float[np.ndarray, " f"]:
    """The numbers of schema.PLAIN, float32; nan for what is not known.

    Args:
        image: as it is stored.
        captions: all of the sample; the length is that of the first, in characters.
        label: its class index.
        size: width and height of the stored image.
        pixels: the image as the model sees it. Of each channel the mean and the standard deviation are taken, and of
            all the mean difference of neighbours in a row.

    Example:
        >>> grey = np.full((3, 2, 2), 7, np.uint8)
        >>> plain_features(b"...", ["a cat"], None, (64, 48), grey)[1:5]
        array([ 1.,  5., 64., 48.], dtype=float32)
    """
    kind = format_of(image[:SIGNATURE])
    found = [
        math.nan if label is None else label,
        len(captions),
        len(captions[0]) if captions else 0,
        *(size or (math.nan, math.nan)),
        FORMATS.index(kind) if kind in FORMATS else math.nan,
        len(image),
        *(np.full(7, math.nan) if pixels is None else _colours(pixels)),
    ]
    assert len(found) == len(PLAIN)
    return np.array(found, np.float32)


def _colours(pixels: UInt8[np.ndarray, "3 H W"]) -> Float[np.ndarray, " 7"]:
    values = pixels.astype(np.float32)
    sharpness = np.abs(np.diff(values, axis=2)).mean() if values.shape[2] > 1 else 0.0
    return np.array([*values.mean(axis=(1, 2)), *values.std(axis=(1, 2)), sharpness])
