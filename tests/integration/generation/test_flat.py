"""The preset `flat` runs everything around a model without one: groups of one colour, made as all are."""

import numpy as np
import pytest

from stablerep.captions import Caption
from stablerep.config.recipe import load_recipe
from stablerep.errors import InvalidInput
from stablerep.generation import Generator


def test_an_image_is_one_colour_of_its_caption_and_seed() -> None:
    boot, same, dress = Generator(load_recipe("flat")).generate(["a boot", "a boot", "a dress"])
    for group in (boot, same, dress):
        assert len(group.images) == 4
        for image in group.images:
            pixels = np.asarray(image)
            assert pixels.shape == (32, 32, 3)
            assert (pixels == pixels[0, 0]).all()
    assert len({image.tobytes() for image in (*boot.images, *same.images)}) == 8, (
        "each image has its own noise"
    )
    means = [np.mean([np.asarray(image)[0, 0] for image in group.images], 0) for group in (boot, same, dress)]
    assert np.abs(means[0] - means[1]).max() < np.abs(means[0] - means[2]).max()


def test_a_group_is_the_same_alone_and_among_others() -> None:
    captions = [Caption(number, f"caption {number}") for number in range(40)]
    generator = Generator(load_recipe("flat"), seed=7)
    among = {group.caption_id: group.encoded for group in generator.generate(captions)}
    [alone] = Generator(load_recipe("flat"), seed=7).generate([captions[23]])
    assert alone.encoded == among[23]


def test_steps_are_reported_as_a_models_are() -> None:
    steps: list[None] = []
    list(Generator(load_recipe("flat", {"steps": "5"})).generate(["a"], on_step=lambda: steps.append(None)))
    assert len(steps) == 5


def test_an_unknown_builtin_names_those_there_are() -> None:
    with pytest.raises(InvalidInput, match="builtin:fashion, builtin:flat"):
        Generator(load_recipe("flat", {"model": "builtin:shoes"}))
