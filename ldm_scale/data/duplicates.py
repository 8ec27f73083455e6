"""Near-duplicates: images whose thumbnails are close, found among a million without comparing all pairs."""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

THUMBNAIL = 32
SHAPE = (THUMBNAIL, THUMBNAIL, 3)
# Means of blocks of this side, and how many of their principal components the search tree is built of.
BLOCK = 4
COMPONENTS = 16
# Thumbnails averaged at a time; pairs compared at a time, few enough for a processor's cache.
_CHUNK = 4096
_PAIRS = 128


def thumbnail(image: Image.Image) -> np.ndarray:
    """The image as box-filtered RGB, uint8 (32, 32, 3)."""
    return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


def _block_means(thumbnails: np.ndarray) -> Iterator[np.ndarray]:
    """Means of blocks, float64 (chunk, 192), a chunk at a time."""
    side = THUMBNAIL // BLOCK
    for start in range(0, len(thumbnails), _CHUNK):
        blocks = thumbnails[start : start + _CHUNK].reshape(-1, side, BLOCK, side, BLOCK, 3)
        yield blocks.mean(axis=(2, 4)).reshape(len(blocks), -1)


def _leading_components(thumbnails: np.ndarray) -> np.ndarray:
    """Block means on their leading principal components, float64 (n, 16)."""
    total, squares = 0.0, 0.0
    for means in _block_means(thumbnails):
        total, squares = total + means.sum(axis=0), squares + means.T @ means
    mean = total / len(thumbnails)
    _, axes = np.linalg.eigh(squares / len(thumbnails) - np.outer(mean, mean))
    return np.concatenate([(means - mean) @ axes[:, -COMPONENTS:] for means in _block_means(thumbnails)])


def _close(thumbnails: np.ndarray, pairs: np.ndarray, limit: float) -> np.ndarray:
    """Which pairs (m, 2) differ by a sum of squares of at most `limit`, exactly."""
    found = np.empty(len(pairs), bool)
    for start in range(0, len(pairs), _PAIRS):
        one, other = pairs[start : start + _PAIRS].T
        difference = (thumbnails[one].astype(np.int32) - thumbnails[other]).reshape(len(one), -1)
        found[start : start + _PAIRS] = np.einsum("ij,ij->i", difference, difference) <= limit
    return found


def near_pairs(thumbnails: np.ndarray, radius: float) -> np.ndarray:
    """All pairs of thumbnails whose root mean square difference is at most `radius`, int (m, 2).

    thumbnails: uint8 (n, 32, 32, 3); radius: of intensities in [0, 1].
    Averaging over blocks and projecting on orthonormal axes both contract distances (Jensen, Bessel): with the scale
    of one component, |P mean(a) - P mean(b)| <= sqrt(192) RMS(a - b). So pairs beyond that radius in a k-d tree of the
    projections need no look, and no near pair is missed; the rest are compared in full.
    """
    pixels = float(np.prod(SHAPE))
    # Rounding of the projections must not cost a pair.
    reach = 255 * radius * (pixels / BLOCK**2) ** 0.5 + 1e-3
    pairs = cKDTree(_leading_components(thumbnails)).query_pairs(reach, output_type="ndarray")
    return pairs[_close(thumbnails, pairs, pixels * (255 * radius) ** 2)]


def duplicate_groups(thumbnails: np.ndarray, variants: Sequence[Hashable], radius: float) -> np.ndarray:
    """Group samples that show one picture: equal `variants`, or thumbnails within `radius` of each other.

    Groups are the connected components, so a chain of near pairs is one group. Returns a group number a sample, (n,).
    """
    n = len(thumbnails)
    near = near_pairs(thumbnails, radius)
    first = {variant: index for index, variant in reversed(list(enumerate(variants)))}
    same = np.array([first[variant] for variant in variants])
    rows = np.concatenate([near[:, 0], np.arange(n)])
    columns = np.concatenate([near[:, 1], same])
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1])
