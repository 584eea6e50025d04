"""A batch is encoded in as few parts as memory holds: what is foretold is what a step then takes."""

from functools import partial, partialmethod

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from stablerep.methods.table import METHODS
from stablerep.runs.config import TrainConfig, load_train_config
from stablerep.training.distributed import Ranks
from stablerep.training.fitting import equal_parts, parts_that_fit
from stablerep.training.learner import Learner, build_learner
from stablerep.training.sharding import bytes_here
from stablerep.training.step import Backward
from tests.memory import LiveBytes
from tests.unit.methods.test_methods import ALONE, CAPTIONS, WHERE, batch_of, configuration, gradients

CPU = torch.device("cpu")


class Memory(LiveBytes):
    """So many bytes, of which what is made inside takes its own."""

    bytes = 0

    def limit(self) -> int:
        return self.bytes


def in_parts(name: str, captions: int, parts: int | str) -> TrainConfig:
    views = captions * configuration(name).method.needs().views
    return configuration(name, views_per_batch=views, encode_parts=parts)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_foretold_is_what_a_step_takes(name):
    """Never less; and not so much more that a batch would be in more than one part too many."""
    captions = 96
    with Memory() as memory:
        learner = build_learner(configuration(name), CPU, 1)
        batch = batch_of(configuration(name), captions=captions)
        room = 4 * bytes_here(learner)  # the optimiser's, of gradients that are gathered, and some
        taken = {}
        for parts in range(1, 9):
            backward = Backward(learner, in_parts(name, captions, parts), ALONE)
            learner.zero_grad()
            taken[parts] = room + memory.peak(partial(backward, batch))
        for enough in (1, 2, 4, 8):
            memory.bytes = int(1.25 * taken[enough])
            parts = parts_that_fit(learner, batch, ALONE, memory)
            assert taken[parts] <= memory.bytes
            assert parts <= enough  # all of them share 96 equally


@pytest.mark.parametrize(
    ("captions", "fewest", "parts"), [(96, 1, 1), (96, 5, 6), (1376, 5, 8), (97, 5, 5), (6, 6, 6)]
)
def test_parts_are_equal_where_a_few_more_make_them_so(captions, fewest, parts):
    assert equal_parts(captions, fewest) == parts


def test_where_not_even_a_captions_part_fits_there_are_as_many_parts_as_captions():
    """What a GPU then says is told; nothing is divided by zero before."""
    with Memory() as memory:
        learner, batch = build_learner(configuration("simclr"), CPU, 1), batch_of(configuration("simclr"))
        assert parts_that_fit(learner, batch, ALONE, memory) == CAPTIONS


@pytest.mark.parametrize("name", ["stablerep", "synclr"])
def test_a_trial_leaves_no_trace(name):
    """Not in weights, nor in the running statistics of a head's batch norm, nor in random numbers."""
    with Memory() as memory:
        learner, batch = build_learner(configuration(name), CPU, 1), batch_of(configuration(name))
        before = {key: value.clone() for key, value in learner.state_dict().items()}
        torch.manual_seed(4)
        wanted = torch.rand(3)
        torch.manual_seed(4)
        parts_that_fit(learner, batch, ALONE, memory)
        torch.testing.assert_close(torch.rand(3), wanted, rtol=0, atol=0)
        after = learner.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items())
        assert not gradients(learner)


def one_step(config: TrainConfig, memory: Memory) -> tuple[Learner, Backward]:
    learner = build_learner(config, CPU, 1).double()
    backward = Backward(learner, config, ALONE, memory=memory)
    batch = batch_of(config, torch.float64)
    backward(batch)
    first = gradients(learner)
    learner.zero_grad()
    backward(batch)
    for name, value in gradients(learner).items():
        torch.testing.assert_close(value, first[name], rtol=1e-9, atol=1e-9, msg=name)
    return learner, backward


def test_a_step_in_parts_that_were_chosen_learns_what_the_whole_teaches(capsys):
    with Memory() as memory:
        memory.bytes = 2**40
        whole, one = one_step(configuration("stablerep"), memory)
        assert one.parts == 1
        assert "parts" not in capsys.readouterr().out
        memory.bytes = 0
        learner, several = one_step(configuration("stablerep"), memory)
    assert several.parts == CAPTIONS
    said = f"The device's memory holds a batch's encoding in {CAPTIONS} parts (encode_parts={CAPTIONS}).\n"
    assert capsys.readouterr().out == said, "once"
    wanted, given = gradients(whole), gradients(learner)
    assert wanted.keys() == given.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(given[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_it_is_not_tried_where_it_is_said_or_cannot_be_or_is_not_known():
    class Untouched(Memory):
        def peak(self, work):
            raise AssertionError("tried")

    config = configuration("simclr", encode_parts=3)
    backward = Backward(build_learner(config, CPU, 1), config, ALONE, memory=Untouched())
    assert backward.parts == 3
    backward(batch_of(config))
    of_resnet = load_train_config("demo", WHERE)  # whose batch norm would be that of a part
    assert Backward(build_learner(of_resnet, CPU, 1), of_resnet, ALONE, memory=Untouched()).parts == 1
    config = configuration("simclr")
    assert config.encode_parts == "auto"
    assert Backward(build_learner(config, CPU, 1), config, ALONE).parts == 1, "a CPU says nothing of memory"
    meta = Ranks(0, 1, torch.device("meta"))
    assert Backward(build_learner(config, CPU, 1), config, meta).parts == 1


def test_a_trial_compiles_nothing(monkeypatch):
    """Or blocks would be compiled for its few captions first, and then once more for any number."""

    class Uncounted:  # torch compiles nothing where each operation is counted
        def limit(self) -> int:
            return 0

        def held(self) -> int:
            return 0

        def peak(self, work) -> int:
            work()
            return 1

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    config = configuration("simclr", compile=True)
    learner, batch = build_learner(config, CPU, 1), batch_of(config)
    counters.clear()
    assert parts_that_fit(learner, batch, ALONE, Uncounted()) == CAPTIONS
    assert counters["stats"]["unique_graphs"] == 0
    learner.encode(batch)
    assert counters["stats"]["unique_graphs"] == 1
