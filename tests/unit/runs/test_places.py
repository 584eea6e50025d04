"""Which machine of a run is the first one: that with index 0, whose name sorts before all others."""

import pytest

from services.trainer.launch import _own_name


@pytest.mark.parametrize("first", ["run-big-0.run-big", "run-big-node-0-0.run-big"])
def test_the_first_machines_name_sorts_first(first: str) -> None:
    names = [_own_name(first, index) for index in range(120)]
    assert names[0] == first == min(names)
    assert len(set(names)) == 120
    assert names[17] == first.replace("-0.", "-17.")


@pytest.mark.parametrize("first", ["127.0.0.1", "host", "run-big-1.run-big", "10.0.0.0"])
def test_a_name_of_another_form_leaves_the_address(first: str) -> None:
    assert _own_name(first, 3) == ""
