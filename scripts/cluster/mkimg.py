#!/usr/bin/env python3
"""mkimg.py OUT.tar NAME:TAG ENTRYPOINT[,ARG...] [-e K=V]... [-u UID] [-l LAYER.tar]... [SRC:DST]...
Writes a docker-archive image tar: the given layer tars as they are, then one layer of the SRC:DST files (stdlib only)."""

import hashlib
import io
import json
import os
import sys
import tarfile


def add(t, name, data, mode=0o644):
    ti = tarfile.TarInfo(name)
    ti.size = len(data)
    ti.mode = mode
    t.addfile(ti, io.BytesIO(data))


def sha(path):
    with open(path, "rb") as f:
        return (
            hashlib.file_digest(f, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(f.read()).hexdigest()
        )


def main(argv):
    out, name, entry, *rest = argv
    env, user, pairs, layers = ["PATH=/usr/local/bin:/usr/bin:/bin:/sbin:/usr/sbin:/"], "", [], []
    it = iter(rest)
    for a in it:
        if a == "-e":
            env.append(next(it))
        elif a == "-u":
            user = next(it)
        elif a == "-l":
            layers.append(next(it))
        else:
            pairs.append(a.rsplit(":", 1))
    tmp = out + ".layer"

    def own(ti):
        ti.uid = ti.gid = 0
        ti.uname = ti.gname = "root"
        return ti

    with tarfile.open(tmp, "w") as t:
        if not layers:  # FROM scratch: what most programs expect to find
            ti = tarfile.TarInfo("tmp")
            ti.type = tarfile.DIRTYPE
            ti.mode = 0o1777
            t.addfile(ti)
            add(t, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnonroot:x:65532:65532::/tmp:/bin/false\n")
            add(t, "etc/group", b"root:x:0:\nnonroot:x:65532:\n")
        for src, dst in pairs:
            t.add(src, arcname=dst.lstrip("/") or ".", filter=own)
    layers.append(tmp)
    ids = [sha(p) for p in layers]
    cfg = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Entrypoint": entry.split(","), "Env": env, "User": user, "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + i for i in ids]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "mkimg.py"}] * len(ids),
        }
    ).encode()
    cname = hashlib.sha256(cfg).hexdigest() + ".json"
    with tarfile.open(out, "w") as t:
        add(t, cname, cfg)
        add(
            t,
            "manifest.json",
            json.dumps(
                [{"Config": cname, "RepoTags": [name], "Layers": [i + "/layer.tar" for i in ids]}]
            ).encode(),
        )
        for p, i in zip(layers, ids):
            t.add(p, arcname=i + "/layer.tar")
    os.unlink(tmp)


main(sys.argv[1:])
