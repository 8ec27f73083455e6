"""Columns and Arrow schemas of everything that passes between stages or is written."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from ldm_scale.errors import UsageError

# What the bins of a spectrum are ranked by: each sample's own influences, a random draw for each sample (the control),
# or one ranking for all samples.
Order = Literal["influence", "random", "global"]

# What is plain of a sample, in this order: its class, its captions (how many, characters of the first), its image as it
# is stored (pixels, format, bytes) and as the model sees it (0 to 255; sharpness: mean difference of neighbours).
PLAIN = (
    *("class", "captions", "caption length", "width", "height", "format", "bytes"),
    *("red", "green", "blue", "red deviation", "green deviation", "blue deviation", "sharpness"),
)
# A format is its place here.
FORMATS = ("JPEG", "PNG", "WEBP")
# What the rows hold for the blind control: that, and mean and standard deviation of the latent that is attacked.
BLIND = (*PLAIN, "latent mean", "latent deviation")

# Between the stages of the graph.
STORED = pa.schema(
    [
        ("sample_id", pa.string()),
        ("member", pa.bool_()),
        ("image", pa.binary()),
        ("captions", pa.list_(pa.string())),
        ("label", pa.int64()),
        ("fault", pa.string()),
        ("flaws", pa.string()),
    ]
)
DECODED = pa.schema(
    [
        ("sample_id", pa.string()),
        ("member", pa.bool_()),
        ("captions", pa.list_(pa.string())),
        ("label", pa.int64()),
        ("flaws", pa.string()),
        ("plain", pa.list_(pa.float32(), len(PLAIN))),
        ("pixels", pa.binary()),
        ("stage", pa.string()),
        ("reject", pa.string()),
    ]
)
# In rejects/. Stages: read (the shard), decode (the image), condition (caption or class), audit (the numbers).
REJECT = pa.schema([("sample_id", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
# Who is a member, if a split file says so.
SPLIT = pa.schema([("shard", pa.string()), ("key", pa.string()), ("member", pa.bool_())])


def sample_id(shard_stem: str, key: str) -> str:
    """`<shard stem>/<key>`: stable when the shards move to another bucket."""
    return f"{shard_stem}/{key}"


def split_id(sample_id: str) -> tuple[str, str]:
    """The shard stem and the key of a sample id."""
    stem, _, key = sample_id.partition("/")
    return stem, key


def spectrum_column(attack: str, order: Order) -> str:
    """The column of an attack's spectrum whose bins follow this order of the dimensions.

    >>> [spectrum_column("sima", order) for order in ("influence", "random", "global")]
    ['sima', 'sima_random', 'sima_global']
    """
    return attack if order == "influence" else f"{attack}_{order}"


def orders(one_ranking: bool) -> tuple[Order, ...]:
    """The orders that a run has spectra by; the last one only if there is one ranking for all samples."""
    return ("influence", "random", "global") if one_ranking else ("influence", "random")


def as_array(table: pa.Table, column: str) -> np.ndarray:
    """A column of fixed-size lists, none of them null, (rows, values)."""
    lists = table[column].combine_chunks()
    return lists.flatten().to_numpy().reshape(len(table), lists.type.list_size)


def as_pixels(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """The pixels that decode_block made of good images, uint8 (n, 3, size, size): read-only, a view if it can be."""

    def view(chunk: pa.BinaryArray) -> np.ndarray:
        # Values lie one after the other, from the first one's offset on.
        _, offsets, values = chunk.buffers()
        first = np.frombuffer(offsets, np.int32, 1, 4 * chunk.offset)[0]
        return np.frombuffer(values, np.uint8, 3 * size * size * len(chunk), first).reshape(-1, 3, size, size)

    views = [view(chunk) for chunk in column.chunks if len(chunk)]
    return views[0] if len(views) == 1 else np.concatenate(views)


def row_bytes(schema: pa.Schema) -> int:
    """Bytes of a row's values before compression, the text of its id left out."""
    bits = 0
    for kind in schema.types:
        if pa.types.is_fixed_size_list(kind):
            bits += kind.list_size * kind.value_type.bit_width
        elif pa.types.is_primitive(kind):
            bits += kind.bit_width
    return -(-bits // 8)


def row_schema(
    dimensions: int,
    attacks: dict[str, int],
    bins: int,
    metadata: dict[str, str],
    one_ranking: bool,
    blind: Sequence[str] = (),
) -> pa.Schema:
    """The schema of samples/*.parquet.

    Spectra are T * bins values, timestep by timestep, the lowest rank first. stability_*: rank correlation, and overlap
    of the lowest 40%, of the influences from two halves of the probes. leakage: |S_i| of one attack at one timestep.
    blind: plain numbers of the sample, whose names are in the metadata, nan for what is not known.

    Args:
        dimensions: D of the latent.
        attacks: number of timesteps T of each attack.
        bins: bins of a spectrum.
        metadata: kept in the schema, as text.
        one_ranking: whether there are also spectra by one ranking for all samples.
        blind: names of the plain numbers; rows of older versions have none.

    Raises:
        UsageError: An attack has the name of another column.
    """
    fields: list[pa.Field] = [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("member", pa.bool_(), nullable=False),
        pa.field("distortion", pa.float32()),
        pa.field("influence", pa.list_(pa.float16(), dimensions)),
        pa.field("stability_correlation", pa.float32()),
        pa.field("stability_overlap", pa.float32()),
        pa.field("leakage", pa.list_(pa.float16(), dimensions)),
    ]
    if blind:
        fields.append(pa.field("blind", pa.list_(pa.float32(), len(blind))))
        metadata = {**metadata, "blind": ", ".join(blind)}
    for name, steps in attacks.items():
        columns = [spectrum_column(name, order) for order in orders(one_ranking)]
        if taken := {*columns} & {field.name for field in fields}:
            raise UsageError(f"attack {name}: rows have a column {min(taken)} already; the attack needs another name")
        fields += [pa.field(column, pa.list_(pa.float32(), steps * bins)) for column in columns]
    return pa.schema(fields, metadata=metadata)
