"""Turns the stand-in for a card on in every Python process that has this folder in PYTHONPATH."""

from tests.card.operations import start

start()
