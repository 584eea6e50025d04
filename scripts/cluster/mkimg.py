#!/usr/bin/env python3
"""mkimg.py OUT.tar NAME:TAG ENTRYPOINT[,ARG...] [SRC:DST]...: an image of these files alone.

Writes a docker-archive with one layer; for the few programs that a cluster's own pods run.
"""

import hashlib
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Adds a file with this content."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def own(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """The member as root's."""
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def write_layer(path: Path, pairs: list[str]) -> None:
    """What most programs expect to find, and the files of SRC:DST."""
    with tarfile.open(path, "w") as layer:
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        layer.addfile(folder)
        add(layer, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532::/tmp:/bin/false\n")
        add(layer, "etc/group", b"root:x:0:\nnonroot:x:65532:\n")
        for pair in pairs:
            source, _, target = pair.rpartition(":")
            layer.add(source, arcname=target.lstrip("/"), filter=own)


def main(out: str, name: str, entrypoint: str, *pairs: str) -> None:
    """Writes the image."""
    with tempfile.TemporaryDirectory() as folder:
        layer = Path(folder) / "layer.tar"
        write_layer(layer, list(pairs))
        digest = hashlib.sha256(layer.read_bytes()).hexdigest()
        created = "2026-01-01T00:00:00Z"
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": created,
                "config": {
                    "Entrypoint": entrypoint.split(","),
                    "Env": ["PATH=/usr/bin:/bin"],
                    "WorkingDir": "/",
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
                "history": [{"created": created, "created_by": "mkimg.py"}],
            }
        ).encode()
        config_name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
        with tarfile.open(out, "w") as archive:
            add(archive, config_name, config)
            add(archive, "manifest.json", json.dumps(manifest).encode())
            archive.add(layer, arcname=f"{digest}/layer.tar")


if __name__ == "__main__":
    main(*sys.argv[1:])
