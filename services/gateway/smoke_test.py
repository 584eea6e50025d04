"""A small job through an installed service, and its groups counted in the store: what `helm test` runs.

    python -m services.gateway.smoke_test HOST:PORT

The client's variables are those of `stablerep` (STABLEREP_TOKEN, STABLEREP_CA_FILE, ...); the store is that
of the settings. The job makes flat colours, for which a worker needs no model, and is deleted at the end.
"""

import argparse
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from uuid import uuid4

from stablerep.client import Job
from stablerep.client.environment import client_from_environment
from stablerep.config.settings import load_settings
from stablerep.errors import StableRepError
from stablerep.shards.layout import shard_key
from stablerep.storage.interface import Store
from stablerep.storage.open import open_store

CAPTIONS = 12
CAPTIONS_PER_SHARD = 4
SECONDS = 600.0
"""For a worker to be there, and for the job."""


def main() -> int:
    """Exit status: 0 if every group is there, once and whole."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway.smoke_test")
    parser.add_argument("address", help="the gateway's HOST:PORT")
    arguments = parser.parse_args()
    name = f"smoke-test-{uuid4().hex[:8]}"
    try:
        settings = load_settings()
        store = open_store(settings.store_url, s3=settings.s3)
        with client_from_environment(arguments.address) as client, tempfile.TemporaryDirectory() as folder:
            captions = Path(folder, "captions.txt")
            captions.write_text("".join(f"colour number {n}\n" for n in range(CAPTIONS)), encoding="utf-8")
            job = client.create_job(name, captions, preset="flat", captions_per_shard=CAPTIONS_PER_SHARD)
            print(f"{job.name}: created")
            for seen in client.watch_job(name, timeout=SECONDS):
                print(f"{seen.name}: {seen.state}, {seen.counts.done} of {seen.counts.shards} shards")
                job = seen
            problem = _problem(store, job)
            client.delete_job(name, delete_data=True, force=True)
    except StableRepError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    passed = f"passed: {CAPTIONS} groups were in {store.url}, each once and whole"
    print(f"FAILED: {problem}" if problem else passed)
    return bool(problem)


def _problem(store: Store, job: Job) -> str:
    """What is wrong with the job's dataset; empty: nothing. Read as anybody would, with tarfile alone."""
    if job.state != "SUCCEEDED":
        return f"the job is {job.state} ({job.error})"
    seen: list[int] = []
    for shard in range(job.counts.shards):
        with tarfile.open(fileobj=io.BytesIO(store.get(shard_key(job.dataset, shard)))) as tar:
            names = tar.getnames()
            for name in names:
                if name.endswith(".json"):
                    key = name.removesuffix(".json")
                    member = tar.extractfile(name)
                    group = json.load(member) if member else {}
                    images = [each for each in names if each.startswith(f"{key}.") and each.endswith(".jpg")]
                    if len(images) != job.recipe["images_per_caption"]:
                        return f"group {key} has {len(images)} images"
                    seen.append(int(group["caption_id"]))
    return "" if sorted(seen) == list(range(CAPTIONS)) else f"the groups are {sorted(seen)}"


if __name__ == "__main__":
    sys.exit(main())
