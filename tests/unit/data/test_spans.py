"""Spans kept as arrays give back the groups that their indexes have."""

import random

from stablerep.data.corpus.spans import Spans
from stablerep.shards import IndexedGroup


def drawn(random: random.Random, number: int) -> list[IndexedGroup]:
    """Groups of no to four images in a tar of many gigabytes; ids with gaps."""
    groups, place, caption_id = [], random.randrange(10**12), 0
    for _ in range(number):
        spans = []
        for _ in range(random.randrange(5) + 1):
            place += 512 + random.randrange(10**7)
            spans.append((place, random.randrange(10**7)))
            place += spans[-1][1]
        random.shuffle(spans)  # nothing says that the JSON comes last
        caption_id += random.randrange(1, 4)
        *images, content = spans
        groups.append(
            IndexedGroup(
                caption_id=caption_id,
                caption=f"caption {caption_id}",
                json_span=content,
                image_spans=tuple(images),
            )
        )
    return groups


def test_groups_come_back():
    generator = random.Random(0)
    shards = [drawn(generator, number) for number in (3, 0, 40, 1)]
    spans = Spans([Spans.of(groups) for groups in shards])
    whole = [group for groups in shards for group in groups]
    assert len(spans) == len(whole)
    assert [spans.group(place, group.caption) for place, group in enumerate(whole)] == whole
    assert spans.counts.tolist() == [len(group.image_spans) for group in whole]
    assert spans.ids.tolist() == [group.caption_id for group in whole]


def test_nothing_is_nothing():
    assert len(Spans()) == len(Spans.of([])) == len(Spans([Spans.of([])])) == 0
