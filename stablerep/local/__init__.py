"""The services of one machine as child processes, with an embedded queue server."""
