"""Processes that wire the library to the network: gateway, generator, trainer."""
