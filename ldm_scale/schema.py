"""Columns and Arrow schemas of everything that passes between stages or is written."""

import pyarrow as pa

# Between the stages of the graph.
STORED = pa.schema(
    [
        ("sample_id", pa.string()),
        ("member", pa.bool_()),
        ("image", pa.binary()),
        ("caption", pa.string()),
        ("label", pa.int64()),
        ("fault", pa.string()),
        ("flaws", pa.string()),
    ]
)
DECODED = pa.schema(
    [
        ("sample_id", pa.string()),
        ("member", pa.bool_()),
        ("caption", pa.string()),
        ("label", pa.int64()),
        ("flaws", pa.string()),
        ("pixels", pa.binary()),
        ("stage", pa.string()),
        ("reject", pa.string()),
    ]
)
# In rejects/. Stages: read (the shard), decode (the image), condition (caption or class), audit (the numbers).
REJECT = pa.schema([("sample_id", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
# Who is a member where a split file says so.
SPLIT = pa.schema([("shard", pa.string()), ("key", pa.string()), ("member", pa.bool_())])


def sample_id(shard_stem: str, key: str) -> str:
    """`<shard stem>/<key>`: stable when the shards move to another bucket."""
    return f"{shard_stem}/{key}"


def split_id(sample_id: str) -> tuple[str, str]:
    """The shard stem and the key of a sample id."""
    stem, _, key = sample_id.partition("/")
    return stem, key


def control(attack: str) -> str:
    """The column of an attack's random control spectrum."""
    return f"{attack}_random"


def globally(attack: str) -> str:
    """The column of an attack's spectrum by one ranking for all samples."""
    return f"{attack}_global"


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
    dimensions: int, attacks: dict[str, int], bins: int, metadata: dict[str, str], one_ranking: bool
) -> pa.Schema:
    """The schema of samples/*.parquet.

    dimensions: D of the latent. attacks: number of timesteps T of each attack. one_ranking: whether there are spectra
    by one ranking for all samples, too. Spectra are T * bins values, timestep by timestep, lowest influence first.
    stability_*: of the influences from two halves of the probes, rank correlation and overlap of the lowest 40%.
    leakage: |S_i| of one attack at one timestep.
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
    for name, steps in attacks.items():
        columns = [name, control(name)] + ([globally(name)] if one_ranking else [])
        fields += [pa.field(column, pa.list_(pa.float32(), steps * bins)) for column in columns]
    return pa.schema(fields, metadata=metadata)
