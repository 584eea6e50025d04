"""The few steps that differ between the blocking and the asyncio client, under the same names."""
