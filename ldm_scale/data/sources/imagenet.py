"""ImageNet-1K: class folders in `train/` and `val/`, or the official tar of class tars, read without unpacking.

Keys are `train/n01440764/n01440764_10026` and so on; items come by class and file name, as torchvision orders them, so
that the class index is the place among the sorted WordNet ids.
"""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from ldm_scale.data.sources.items import Item, Stored, is_image, key_of
from ldm_scale.errors import UsageError, one_line
from ldm_scale.storage import Location, sub_locations

TAR = "ILSVRC2012_img_train.tar"
SIDES = ("train", "val")
_CLASS = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class TarredImage:
    """One image inside a tar, however deep: its bytes lie there as they are."""

    tar: Location
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.tar} {self.name}"

    def read_bytes(self) -> bytes:
        with self.tar.open() as file:
            file.seek(self.offset)
            return bytes(file.read(self.size))


def _in_folders(folder: Location) -> Iterator[tuple[str, Stored]]:
    for relative, location in sub_locations(folder, ""):
        wnid, _, name = relative.partition("/")
        if _CLASS.fullmatch(wnid) and is_image(name):
            yield relative, location


def _members(tar: tarfile.TarFile, size: int) -> Iterator[tarfile.TarInfo]:
    """The members of a tar of so many bytes; one that was cut between two members has no end mark behind the last."""
    yield from tar
    if tar.offset >= size:
        raise tarfile.ReadError("it ends without an end mark")


def _in_class_tar(tar: Location, outer: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[tuple[str, Stored]]:
    with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
        for file in _members(inner, member.size):
            offset = member.offset_data + file.offset_data
            yield f"{member.name.removesuffix('.tar')}/{file.name}", TarredImage(tar, file.name, offset, file.size)


def _in_tar(tar: Location) -> list[tuple[str, Stored]]:
    try:
        with tar.open() as file, tarfile.open(fileobj=file, mode="r:") as outer:
            return sorted(
                (found for member in _members(outer, tar.size()) for found in _in_class_tar(tar, outer, member)),
                key=lambda found: found[0],
            )
    except tarfile.TarError as error:
        raise UsageError(f"{tar} is no complete tar of class tars: {one_line(error)}") from None


def read_imagenet(folder: Location) -> list[Item]:
    """The training images, then the validation images where there are class folders of them; labels are WordNet ids."""
    found = {side: list(_in_folders(folder / side)) for side in SIDES}
    if not found["train"] and (folder / TAR).is_file():
        found["train"] = _in_tar(folder / TAR)
    if not any(found.values()):
        raise UsageError(f"{folder} holds neither class folders (train/n01440764/ and so on) nor {TAR}")
    return [
        Item(f"{side}/{key_of(relative)}", location, label=relative.split("/")[0])
        for side, images in found.items()
        for relative, location in images
    ]
