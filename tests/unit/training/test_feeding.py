"""Who reads and decodes: a process of its own on a GPU, if shared memory holds what it makes."""

import pytest

from stablerep.training import feeding, load_train_config
from stablerep.training.feeding import Place, loads_in_process, shared_bytes

CARD = Place(0, 1, "cuda", 0)


def config(**changed: object):
    required = {"run": "file:///s/runs/r", "datasets": ["file:///s/datasets/d"]}
    return load_train_config("paper_vit_b16_cc12m_1x", required | changed)


def decided(
    place: Place = CARD, *, in_memory: bool = False, follows: bool = False, **changed: object
) -> bool:
    return loads_in_process(config(**changed), place, in_memory=in_memory, follows=follows)


def test_on_a_gpu_unless_there_is_nothing_to_read_ahead(monkeypatch):
    monkeypatch.setattr(feeding, "shared_memory", lambda: 10**12)
    assert decided()
    assert not decided(Place(0, 1, "cpu", 0))
    assert not decided(in_memory=True)
    assert not decided(follows=True)
    assert not decided(prefetch=0)
    assert not decided(load_in="thread")
    assert decided(Place(0, 1, "cpu", 0), load_in="process")


def test_not_where_shared_memory_is_too_small(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(feeding, "shared_memory", lambda: 2 << 30)
    monkeypatch.setattr(feeding.console, "print", said.append)
    assert not decided()
    assert "GB of shared memory" in said[0]
    assert decided(load_in="process"), "who asks for it gets it"


@pytest.mark.parametrize(("ranks", "local"), [(1, 1), (8, 8), (16, 8)])
def test_all_ranks_of_a_machine_share_it(monkeypatch, ranks, local):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    views = 8256 // ranks * local
    wanted = views * 3 * 256 * 256 * 1.5 * 4  # two ahead, one made, one handed over
    assert shared_bytes(config(prefetch=2), Place(0, ranks, "cuda", 0)) == wanted
