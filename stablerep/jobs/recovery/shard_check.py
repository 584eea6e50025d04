"""Checks that a shard's tar and index are there, whole and of each other; writes a missing index."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from stablerep.errors import NotFound, TornObject
from stablerep.jobs.recovery.indexes import NOTHING, Totals, totals_of
from stablerep.shards import ShardIndex, index_tar, read_captions, read_index, rebuild_index
from stablerep.shards.layout import shard_key
from stablerep.storage.interface import Store

logger = logging.getLogger("stablerep.queue")

NO_TAR = -1  # in place of a size


class Verdict(StrEnum):
    """WHOLE; INDEXED: whole, and its index was written now; MISSING: no tar; TORN: the tar is damaged."""

    WHOLE = "WHOLE"
    INDEXED = "INDEXED"
    MISSING = "MISSING"
    TORN = "TORN"

    @property
    def good(self) -> bool:
        return self in (Verdict.WHOLE, Verdict.INDEXED)


@dataclass(frozen=True)
class Checked:
    """What became of one shard; `totals` of a good one."""

    shard: int
    verdict: Verdict
    totals: Totals = NOTHING
    other_captions: bool = False
    """The tar is whole, but of other captions than the shard's."""
    no_captions: bool = False
    """The captions object cannot be read."""


def index_reader(store: Store, dataset: str) -> Callable[[int], Checked]:
    """A function that reads what a done shard holds; nothing, where its index cannot be read."""

    def read(shard: int) -> Checked:
        try:
            index = read_index(store, dataset, shard)
        except TornObject as error:  # a repair of its content makes it whole
            logger.warning("not counted: %s", error)
            index = None
        return Checked(shard, Verdict.WHOLE, NOTHING if index is None else totals_of(index))

    return read


def shard_checker(
    store: Store, dataset: str, sizes: Sequence[int], *, verify: bool
) -> Callable[[int], Checked]:
    """A function that checks a shard which has a tar or an index.

    Args:
        sizes: of the tars in the store, by shard. Those without an index are indexed, or found torn.
        verify: reads every tar and its captions; otherwise the tar's size alone is compared with its index.
    """

    def check(shard: int) -> Checked:
        try:
            index = read_index(store, dataset, shard)
        except TornObject:  # no reason to make the shard again: its tar may be whole
            index = None
        if sizes[shard] == NO_TAR:
            return Checked(shard, Verdict.MISSING)
        if index is None:
            return _indexed(shard)
        if index.size != sizes[shard] or (verify and not _is_index_of_tar(store, dataset, shard, index)):
            return Checked(shard, Verdict.TORN)
        return _with_captions(Checked(shard, Verdict.WHOLE, totals_of(index)), index)

    def _indexed(shard: int) -> Checked:
        try:
            index = rebuild_index(store, dataset, shard)
        except NotFound:
            return Checked(shard, Verdict.MISSING)
        except TornObject:
            return Checked(shard, Verdict.TORN)
        return _with_captions(Checked(shard, Verdict.INDEXED, totals_of(index)), index)

    def _with_captions(checked: Checked, index: ShardIndex) -> Checked:
        if not verify:
            return checked
        try:
            wanted = {caption.id: caption.text for caption in read_captions(store, dataset, checked.shard)}
        except (NotFound, TornObject):
            return Checked(checked.shard, checked.verdict, checked.totals, no_captions=True)
        held = {each.caption_id: each.caption for each in index.groups}
        ids = sorted([*held, *(each.caption_id for each in index.skipped)])
        other = ids != sorted(wanted) or any(wanted[id_] != text for id_, text in held.items())
        return Checked(checked.shard, checked.verdict, checked.totals, other_captions=other)

    return check


def _is_index_of_tar(store: Store, dataset: str, shard: int, index: ShardIndex) -> bool:
    try:
        return index_tar(store.get(shard_key(dataset, shard)), index.worker_ms) == index
    except (NotFound, TornObject):
        return False
