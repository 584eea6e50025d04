"""Copies model folders from the store to this machine: an init container of the chart's workers.

    python -m services.generator.fetch_models models/ /models

Files that are there with the right size are kept, so that a restart in the same pod copies nothing again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from services.process.logs import set_up_logs
from stablerep.config.settings import load_settings
from stablerep.errors import InvalidInput, NotFound, StableRepError
from stablerep.storage.interface import Store
from stablerep.storage.open import open_store

PART = 64 << 20
"""Bytes read at a time: a model's file need not fit in memory."""


def main() -> int:
    """Exit status: 0 once all files are there, 2 for wrong settings, 1 for what may pass."""
    parser = argparse.ArgumentParser(
        prog="python -m services.generator.fetch_models",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prefix", help="folder in the store, such as models/")
    parser.add_argument("folder", type=Path, help="folder on this machine")
    arguments = parser.parse_args()
    try:
        settings = load_settings()
        set_up_logs(settings)
        store = open_store(settings.store_url, s3=settings.s3)
        count, size = fetch_models(store, arguments.prefix, arguments.folder)
    except (InvalidInput, NotFound) as error:
        print(f"fetch_models: {error}", file=sys.stderr)
        return 2
    except (StableRepError, OSError) as error:
        print(f"fetch_models: {error}", file=sys.stderr)
        return 1
    print(f"{count:,} files of {size:,} bytes are in {arguments.folder}")
    return 0


def fetch_models(store: Store, prefix: str, folder: Path) -> tuple[int, int]:
    """Copies every object below `prefix` and returns how many there are, and their bytes.

    Raises:
        NotFound: there is none.
        InvalidInput: a key that is no path below the folder.
    """
    prefix = prefix.rstrip("/") + "/"
    count = size = 0
    for info in store.list(prefix):
        path = folder / info.key.removeprefix(prefix)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InvalidInput(f"{info.key} would be written outside of {folder}", field="prefix")
        if not path.exists() or path.stat().st_size != info.size:
            _fetch(store, info.key, info.size, path)
        count, size = count + 1, size + info.size
    if not count:
        raise NotFound(f"there is nothing below {prefix} in {store.url}; upload the model's folder there")
    return count, size


def _fetch(store: Store, key: str, size: int, path: Path) -> None:
    """Written beside and renamed, so that a copy that was interrupted is not taken for a whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".fetching-", delete=False) as file:
        for offset in range(0, size, PART):
            file.write(store.get_range(key, offset, min(PART, size - offset)))
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


if __name__ == "__main__":
    sys.exit(main())
