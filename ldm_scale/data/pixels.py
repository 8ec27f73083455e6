"""Decoded images as they travel in Arrow tables."""

import numpy as np
import pyarrow as pa


def as_pixels(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """The pixels that decode_block made of good images, uint8 (n, 3, size, size): read-only, a view if it can be."""

    def view(chunk: pa.BinaryArray) -> np.ndarray:
        # Values lie one after the other, from the first one's offset on.
        _, offsets, values = chunk.buffers()
        first = np.frombuffer(offsets, np.int32, 1, 4 * chunk.offset)[0]
        return np.frombuffer(values, np.uint8, 3 * size * size * len(chunk), first).reshape(-1, 3, size, size)

    views = [view(chunk) for chunk in column.chunks if len(chunk)]
    return views[0] if len(views) == 1 else np.concatenate(views)
