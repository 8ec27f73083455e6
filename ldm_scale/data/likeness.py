"""How alike two pictures are whatever their brightness and contrast: a descriptor to find them by, and a check."""

import numpy as np
from PIL import Image
from scipy.fft import dct
from scipy.ndimage import gaussian_filter

THUMBNAIL = 32
# Frequencies of the descriptor add up to at most this many half waves a side: few enough to bear a shift of a pixel.
HALF_WAVES = 6
# The check sees detail between these widths, in pixels of a thumbnail: between the loss of a JPEG and even grounds.
FINE, COARSE = 0.7, 2.0
# It compares what lies within this many pixels of the centre, so that the rest may move out of the picture.
REACH = 12
# Gauss-Newton moves from place to place; so many are tried.
PLACES = 5
# The farthest that one picture may be zoomed (a share) and moved down and right (pixels), in all and in one step.
FARTHEST = np.array([0.16, 3, 3], np.float32)
STRIDE = np.array([0.05, 1, 1], np.float32)
# The variance of rounding to whole levels: pictures of no more contrast than that resemble nothing.
ROUNDING = 1 / 12
_CHUNK = 4096
_PAIRS = 256


def thumbnail(image: Image.Image) -> Image.Image:
    """The image at 32 x 32 pixels; Pillow averages when it makes smaller, and interpolates when it enlarges."""
    return image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)


def _frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Half waves down and across, each (27,)."""
    down, across = np.indices((THUMBNAIL, THUMBNAIL)).reshape(2, -1)
    low = (down + across > 0) & (down + across <= HALF_WAVES)
    return down[low], across[low]


DIMENSIONS = len(_frequencies()[0])


def _waves() -> np.ndarray:
    """The waves whose weights make a descriptor, orthogonal to an even ground, float64 (1024, 27).

    They fade towards the edges: what a shift or a crop brings in or takes out there changes little, and of a texture
    finer than the waves nothing is left over.
    """
    down, across = _frequencies()
    fading = np.sin(np.pi * (np.arange(THUMBNAIL) + 0.5) / THUMBNAIL) ** 0.5
    window = np.outer(fading, fading)
    cosines = dct(np.eye(THUMBNAIL), axis=0, norm="ortho")
    waves = np.einsum("fy,fx,yx->fyx", cosines[down], cosines[across], window)
    waves -= waves.sum(axis=(1, 2), keepdims=True) * window / window.sum()
    # Higher frequencies weigh more, against their smaller share of a photograph.
    waves *= (np.hypot(down, across) ** 0.5 / np.linalg.norm(waves, axis=(1, 2)))[:, None, None]
    return waves.reshape(DIMENSIONS, -1).T


def descriptors(thumbnails: np.ndarray) -> np.ndarray:
    """The low frequencies of grey thumbnails (n, 32, 32), float32 unit vectors (n, 27): no brightness, no contrast."""
    waves = _waves()
    found = np.empty((len(thumbnails), DIMENSIONS), np.float32)
    for start in range(0, len(thumbnails), _CHUNK):
        # In float64: what float32 loses of a bright ground depends on the processor.
        found[start : start + _CHUNK] = thumbnails[start : start + _CHUNK].reshape(-1, THUMBNAIL**2) @ waves
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)


def mirrored(found: np.ndarray) -> np.ndarray:
    """The descriptors of the pictures seen in a mirror: odd waves across change their sign."""
    return np.where(_frequencies()[1] % 2, -found, found)


def has_contrast(thumbnails: np.ndarray) -> np.ndarray:
    """Which of the grey thumbnails (n, 32, 32) show more than an even ground, bool (n,)."""
    chunks = np.split(thumbnails, range(_CHUNK, len(thumbnails), _CHUNK))
    return np.concatenate([chunk.std(axis=(1, 2), dtype=np.float32) > 1 for chunk in chunks])


def _detail(thumbnails: np.ndarray) -> np.ndarray:
    """A difference of Gaussians: neither the finest detail nor slow changes of light, float32 (n, 32, 32)."""
    values = thumbnails.astype(np.float32)
    return gaussian_filter(values, (0, FINE, FINE)) - gaussian_filter(values, (0, COARSE, COARSE))


def _sample(pictures: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The middle of pictures (c, n, 32, 32) zoomed and moved by `place` (n, 3), linear between pixels: (c, n, 576)."""
    offsets = np.arange(-REACH, REACH, dtype=np.float32) + 0.5
    around = (THUMBNAIL - 1) / 2 + (1 + place[:, :1]) * offsets

    def weights(points: np.ndarray) -> np.ndarray:
        distance = np.abs(points.clip(0, THUMBNAIL - 1)[:, :, None] - np.arange(THUMBNAIL, dtype=np.float32))
        return np.maximum(0, 1 - distance)

    rows, columns = weights(around + place[:, 1:2]), weights(around + place[:, 2:])
    return (rows @ pictures @ columns.transpose(0, 2, 1)).reshape(*pictures.shape[:2], -1)


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=-1, keepdims=True)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of centred values (n, m) and (n, m); rounding counts as noise in both."""
    noise = one.shape[1] * ROUNDING
    power = (np.einsum("ij,ij->i", one, one) + noise) * (np.einsum("ij,ij->i", other, other) + noise)
    return np.einsum("ij,ij->i", one, other) / np.sqrt(power)


def _step(seen: np.ndarray, slopes: np.ndarray, fixed: np.ndarray) -> np.ndarray:
    """How to move on, (n, 3): `fixed` regressed on what is seen, (n, m), and on its change by each move, (n, 3, m)."""
    columns = np.concatenate([seen[:, None], slopes], axis=1)
    squares = columns @ columns.transpose(0, 2, 1)
    ridge = 1e-6 * np.trace(squares, axis1=1, axis2=2)[:, None, None] + 1e-3
    solved = np.linalg.solve(squares + ridge * np.eye(4, dtype=np.float32), columns @ fixed[:, :, None])[:, :, 0]
    gain = np.where(np.abs(solved[:, :1]) > 0.2, solved[:, :1], 1)
    return (solved[:, 1:] / gain).clip(-STRIDE, STRIDE)


def _align(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    offsets = np.arange(-REACH, REACH, dtype=np.float32) + 0.5
    down, across = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
    place = np.zeros((len(one), 3), np.float32)
    fixed = _centred(_sample(_detail(other)[None], place)[0])
    moving = _detail(one)
    pictures = np.stack([moving, *np.gradient(moving, axis=(1, 2))])
    best = np.full(len(one), -1, np.float32)
    for _ in range(PLACES):
        seen, rows, columns = _centred(_sample(pictures, place))
        best = np.maximum(best, _correlation(seen, fixed))
        slopes = _centred(np.stack([down * rows + across * columns, rows, columns], axis=1))
        place = (place + _step(seen, slopes, fixed)).clip(-FARTHEST, FARTHEST)
    return best


def correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The highest correlation of the details of two pictures, one of them zoomed and moved to fit the other.

    The fit is found as Lucas and Kanade do (IJCAI 1981), by Gauss-Newton steps. Gain and offset of light do not count.

    Args:
        one, other: grey thumbnails, uint8 (n, 32, 32); of a mirrored pair, one is mirrored already.

    Returns:
        float32 (n,), in [-1, 1].
    """
    parts = range(0, len(one), _PAIRS)
    found = [_align(one[start : start + _PAIRS], other[start : start + _PAIRS]) for start in parts]
    return np.concatenate([np.empty(0, np.float32), *found])
