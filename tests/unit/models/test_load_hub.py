"""An encoder named on the Hugging Face hub, where the hub cannot be reached."""

import pytest

from stablerep.errors import Unavailable
from stablerep.models.load import load_encoder


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="hf-hub:nobody/nothing-of-the-kind"):
        load_encoder("hf-hub:nobody/nothing-of-the-kind")
