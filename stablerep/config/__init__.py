"""Everything that is configured, as frozen pydantic trees: settings, recipes, runs, presets. No torch."""
