"""Which of a sample's captions a target is given, in an audit or in training."""

from collections.abc import Sequence

from ldm_scale.config.base import Captions
from ldm_scale.randomness import keyed_generator


def offered(
    captions: Sequence[str], choice: Captions, seed: int, sample_id: str, purpose: str = "caption"
) -> tuple[str, ...]:
    """The captions that take turns: the first alone, a random one alone, keyed by seed, sample and purpose, or all.

    >>> [offered(("a", "b", "c"), choice, 0, "shard-000000/cow") for choice in ("first", "random", "all")]
    [('a',), ('b',), ('a', 'b', 'c')]
    """
    if choice == "random" and len(captions) > 1:
        return (captions[int(keyed_generator(seed, sample_id, purpose).integers(len(captions)))],)
    return tuple(captions[:1] if choice == "first" else captions)


def caption_of_epoch(captions: Sequence[str], choice: Captions, seed: int, sample_id: str, epoch: int) -> str | None:
    """The caption that a sample is trained with in an epoch: another random one in each, or the next of all.

    >>> [caption_of_epoch(("a", "b"), "all", 0, "shard-000000/cat", epoch) for epoch in range(3)]
    ['a', 'b', 'a']
    """
    some = offered(captions, choice, seed, sample_id, f"caption {epoch}")
    return some[epoch % len(some)] if some else None
