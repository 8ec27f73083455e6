"""WebDataset shards that somebody else wrote, img2dataset say: `.tar` files with an image a key, `txt`, `cls`, `json`.

Keys are `<shard>/<key>`, for only within a shard they are sure to differ; items come by shard and place in it.
"""

from collections.abc import Iterator

from ldm_scale.data.samples import IMAGE_SUFFIXES, as_caption, as_label, as_metadata, split_name
from ldm_scale.data.sources.items import Item, key_of
from ldm_scale.data.sources.tars import TarredFile, tarred_files
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import Location, sub_locations

SMALL = (".txt", ".cls", ".json")


def _by_key(tar: Location) -> dict[str, dict[str, TarredFile]]:
    """Each key's files by suffix, as WebDataset splits names: at the first dot of the last part."""
    samples: dict[str, dict[str, TarredFile]] = {}
    for file in tarred_files(tar, keep=SMALL):
        key, suffix = split_name(file.name)
        if key and suffix:
            files = samples.setdefault(key.removeprefix("./"), {})
            if suffix.lower() in files:
                raise UsageError(f"{tar} holds {file.name} twice")
            files[suffix.lower()] = file
    return samples


def _small(files: dict[str, TarredFile], suffix: str) -> bytes | None:
    return files[suffix].read_bytes() if suffix in files else None


def _read_shard(relative: str, tar: Location) -> Iterator[Item]:
    for key, files in _by_key(tar).items():
        caption, label, metadata = (_small(files, suffix) for suffix in ("txt", "cls", "json"))
        # A download that failed has no image: it stands for no bytes, and is rejected and counted when it is read.
        image = next((files[suffix] for suffix in IMAGE_SUFFIXES if suffix in files), TarredFile(tar, key, 0, 0))
        yield Item(
            f"{key_of(relative)}/{key}",
            image,
            as_caption(caption),
            as_label(label),
            metadata=as_metadata(metadata),
        )


def read_webdataset(folder: Location) -> list[Item]:
    """Every sample of every .tar file below the folder; what lies beside them (statistics, Parquet) is not read.

    Raises:
        UsageError: There is no shard, or one is incomplete or names a file twice.
    """
    tars = list(sub_locations(folder, ".tar"))
    if not tars:
        raise UsageError(f"{folder} holds no .tar shards")
    return [item for relative, tar in tars for item in _read_shard(relative, tar)]
