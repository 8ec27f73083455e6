"""Who is a member: seeded halves, sides by how keys begin, and split files."""

import io
import json
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ldm_scale.data.split import (
    INDEX_ARRAYS,
    Split,
    check_keys,
    draw,
    first_of_each_side,
    random_halves,
    read_index_split,
    read_split,
    split_by_prefix,
)
from ldm_scale.errors import UsageError
from ldm_scale.files.storage import MOST, Location

KEYS = [f"class/{number:03d}" for number in range(101)]


def read(folder: Path, content: object) -> Split:
    path = folder / "split.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_split(Location.of(path))


def test_halves_are_disjoint_complete_and_equal() -> None:
    split = random_halves(KEYS, 0)
    assert (len(split.members), len(split.heldout)) == (50, 51)
    assert sorted(split.members + split.heldout) == KEYS


def test_halves_do_not_depend_on_the_order_of_keys() -> None:
    shuffled = np.random.default_rng(0).permutation(KEYS).tolist()
    assert random_halves(shuffled, 5) == random_halves(KEYS, 5)


def test_halves_are_seeded_and_random() -> None:
    assert random_halves(KEYS, 1) == random_halves(KEYS, 1)
    assert random_halves(KEYS, 1) != random_halves(KEYS, 2)
    counts = sum((np.isin(KEYS, random_halves(KEYS, seed).members) for seed in range(400)), np.zeros(101))
    # Each key is a member in about 198 of 400 draws (standard deviation 10); five deviations for the worst of 101.
    assert np.abs(counts - 400 * 50 / 101).max() < 50


def test_a_split_file_is_read(tmp_path: Path) -> None:
    split = read(tmp_path, {"members": ["b", "a"], "heldout": ["c", "d/é"], "note": "more keys do no harm"})
    assert split == Split(("b", "a"), ("c", "d/é"))
    assert split.membership() == {"a": True, "b": True, "c": False, "d/é": False}


def test_numbers_are_keys_too(tmp_path: Path) -> None:
    assert read(tmp_path, {"members": [1], "heldout": [2]}) == Split(("1",), ("2",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"members: [a]",
        b"\xff\xfe",
        ["a", "b"],
        None,
        {"members": ["a"]},
        {"members": ["a"], "heldout": 3},
        {"members": ["a"], "heldout": None},
        {"members": "ab", "heldout": "cd"},
    ],
)
def test_a_malformed_split_file_is_named_with_the_right_form(tmp_path: Path, content: object) -> None:
    with pytest.raises(UsageError, match=r'split\.json must be JSON of the form \{"members"'):
        read(tmp_path, content)


def test_a_split_file_needs_members_and_may_name_suspects_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs keys of members, and has none"):
        read(tmp_path, {"members": [], "heldout": ["a"]})
    assert read(tmp_path, {"members": ["a"], "heldout": []}) == Split(("a",), ())


@pytest.mark.parametrize(
    "content", [{"members": ["a", "b"], "heldout": ["a"]}, {"members": ["a", "a"], "heldout": ["b"]}]
)
def test_a_key_named_twice_is_an_error(tmp_path: Path, content: object) -> None:
    with pytest.raises(UsageError, match="names a key twice"):
        read(tmp_path, content)


def test_a_missing_split_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.json does not exist"):
        read_split(Location.of(tmp_path / "gone.json"))


def test_absent_keys_are_counted_and_the_first_is_named() -> None:
    split = Split(("a", "b"), ("c", "d"))
    check_keys(split, {"a", "b", "c", "d", "e"}, "here")
    with pytest.raises(UsageError, match="names 2 keys absent from here, the first is 'b'"):
        check_keys(split, {"a", "d"}, "here")


def test_the_digest_says_who_is_where_whatever_the_order() -> None:
    split = Split(("a", "b"), ("c",))
    assert split.sha256 == Split(("b", "a"), ("c",)).sha256
    others = [Split(("a",), ("b", "c")), Split(("c",), ("a", "b")), Split(("a", "b"), ("d",)), Split(("a", "b"), ())]
    assert len({split.sha256, *(other.sha256 for other in others)}) == 5


def read_npz(folder: Path, **arrays: object) -> Split:
    np.savez(folder / "split.npz", **arrays)
    return read_index_split(Location.of(folder / "split.npz"), KEYS)


def test_a_papers_index_file_numbers_the_keys(tmp_path: Path) -> None:
    split = read_npz(tmp_path, mia_train_idxs=[100, 0], mia_eval_idxs=np.array([7], np.uint8), ratio=0.5)
    assert split == Split(("class/000", "class/100"), ("class/007",))


@pytest.mark.parametrize(
    ("members", "heldout", "message"),
    [
        ([0, 101], [1], "names image 101; the source has 101, numbered from 0"),
        ([0], [-1], "names image -1"),
        ([0, 1], [1], "names a key twice"),
        ([0, 0], [1], "names a key twice"),
        (np.array([], int), [1], "one of the two lists is empty"),
        ([0.0], [1], "mia_train_idxs and mia_eval_idxs"),
        ([[0]], [1], "mia_train_idxs and mia_eval_idxs"),
        (["a"], [1], "mia_train_idxs and mia_eval_idxs"),
        (np.array([0, None]), [1], "mia_train_idxs and mia_eval_idxs"),  # pickled objects are not loaded
    ],
)
def test_an_index_file_that_cannot_be_used_says_why(
    tmp_path: Path, members: object, heldout: object, message: str
) -> None:
    with pytest.raises(UsageError, match=rf"split\.npz .*{message}"):
        read_npz(tmp_path, mia_train_idxs=members, mia_eval_idxs=heldout)


def test_an_index_file_needs_both_arrays(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mia_train_idxs and mia_eval_idxs"):
        read_npz(tmp_path, mia_train_idxs=[0])


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"PK\x03\x04broken", b"\x93NUMPY", pickle.dumps({"mia_train_idxs": [0]})]
)
def test_a_malformed_index_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "split.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"split\.npz must be \.npz"):
        read_index_split(Location.of(tmp_path / "split.npz"), KEYS)


def test_an_array_alone_is_no_index_file(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.arange(3))
    with pytest.raises(UsageError, match=r"array\.npy must be \.npz"):
        read_index_split(Location.of(tmp_path / "array.npy"), KEYS)


def test_a_missing_index_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.npz does not exist"):
        read_index_split(Location.of(tmp_path / "gone.npz"), KEYS)


def numbers(count: int, size: int) -> bytes:
    """An array that declares so many int64 and has so many zero bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
    return buffer.getvalue() + bytes(size)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (numbers(3 << 20, 24 << 20), "has 25165952 bytes, more than the numbers of 101 images"),
        (numbers(10**15, 8), "Unable to allocate"),
        (numbers(5 * 10**8, 8), "expected 262144 bytes got 8"),
    ],
    ids=["inflates", "declares all memory", "declares 4 GB"],
)
def test_an_index_file_is_not_followed_beyond_the_images(tmp_path: Path, content: bytes, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "split.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in INDEX_ARRAYS:
            archive.writestr(f"{name}.npy", content)
    assert (tmp_path / "split.npz").stat().st_size < 1 << 20
    start = time.monotonic()
    with pytest.raises(UsageError, match=rf"split\.npz .*{message}"):
        read_index_split(Location.of(tmp_path / "split.npz"), KEYS)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("name", ["split.json", "split.npz"])
def test_a_split_file_of_a_gigabyte_is_not_read(tmp_path: Path, name: str) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 30)
    location = Location.of(tmp_path / name)
    start = time.monotonic()
    with pytest.raises(UsageError, match=rf"{name} has {1 << 30} bytes; of such a file at most {MOST} are read"):
        read_index_split(location, KEYS) if name.endswith("npz") else read_split(location)
    assert time.monotonic() - start < 1


CIFAR = [*(f"train-{number}" for number in range(5)), *(f"test-{number}" for number in range(3)), "valid-0"]


def test_sides_are_told_by_how_keys_begin() -> None:
    split = split_by_prefix(CIFAR, (), ("test-", "valid-"))
    assert split == Split(tuple(f"train-{n}" for n in range(5)), ("test-0", "test-1", "test-2", "valid-0"))
    assert split_by_prefix(CIFAR, ("train-",), ("test-",)).heldout == ("test-0", "test-1", "test-2")
    assert "valid-0" not in split_by_prefix(CIFAR, ("train-",), ("test-",)).membership()


@pytest.mark.parametrize(
    ("members", "heldout", "message"),
    [
        ((), ("val/",), "heldout: no key begins with val/"),
        (("tarin-",), ("test-",), "members: no key begins with tarin-"),
        ((), ("t", "v"), "members: no key begins with anything else"),
        (("t",), ("test-",), "the key 'test-0' begins as members and as held-out do"),
    ],
)
def test_sides_that_cannot_be_told_are_refused(
    members: tuple[str, ...], heldout: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        split_by_prefix(CIFAR, members, heldout)


def test_a_draw_is_seeded_and_does_not_depend_on_the_order() -> None:
    shuffled = np.random.default_rng(0).permutation(KEYS).tolist()
    drawn = draw(KEYS, 10, 1)
    assert draw(shuffled, 10, 1) == drawn == tuple(sorted(set(drawn)))
    assert len(drawn) == 10
    assert draw(KEYS, 10, 2) != drawn
    assert draw(shuffled, 200, 1) == tuple(KEYS)


def test_the_first_of_each_side_depend_on_neither_order_nor_what_comes_after() -> None:
    stems = {stem: {f"{stem}{n}": stem < "c" for n in range(5)} for stem in "abcd"}
    back = {stem: dict(reversed(keys.items())) for stem, keys in reversed(stems.items())}
    found = first_of_each_side(stems, 7, seed=1)
    assert found == first_of_each_side(back, 7, seed=1) != first_of_each_side(stems, 7, seed=2)
    # Seven of each side's ten, from both of its shards.
    assert [sum(len(found[stem]) for stem in stems) for stems in ("ab", "cd")] == [7, 7]
    assert {*found} == {*"abcd"}
    assert all(stems[stem][key] is side for stem, keys in found.items() for key, side in keys.items())
    fewer = first_of_each_side(stems, 3, seed=1)
    assert all(keys.items() <= found[stem].items() for stem, keys in fewer.items())
    assert first_of_each_side(stems, 11, seed=1) == stems
