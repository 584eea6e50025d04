"""Captions in a column of a Parquet file (LAION's `TEXT`), read batch by batch through pyarrow."""

from collections.abc import Iterator
from typing import Any, BinaryIO

from stablerep.captions.caption import Flaw, clean
from stablerep.captions.formats.columns import find_column
from stablerep.captions.formats.options import Options
from stablerep.errors import InvalidInput, StableRepError

BATCH_ROWS = 4096


def read_parquet(file: BinaryIO, options: Options) -> Iterator[str | Flaw]:
    """One caption a row; a null is an empty one. The file must be seekable."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "Parquet files need pyarrow: pip install 'stablerep[serve]'", field="format"
        ) from error
    try:
        table = pq.ParquetFile(file)
        name = options.found_column = find_column(table.schema_arrow.names, options.column)
        kind = table.schema_arrow.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not any(
            is_kind(kind)
            for is_kind in (
                pa.types.is_string,
                pa.types.is_large_string,
                pa.types.is_binary,
                pa.types.is_large_binary,
                pa.types.is_string_view,
                pa.types.is_binary_view,
            )
        ):
            raise InvalidInput(f"column {name!r} holds {kind}, not text", field="column")
        for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=[name], use_threads=False):
            values = batch.column(0)
            if pa.types.is_dictionary(values.type):
                values = values.dictionary_decode()
            # As bytes: one value that is no UTF-8 would cost the whole batch.
            yield from map(_caption, values.cast(pa.large_binary()).to_pylist())
    except StableRepError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        # OSError: what Arrow raises for a damaged footer; ValueError: names of columns that are no UTF-8
        raise InvalidInput(f"not a whole Parquet file: {error}", field="source") from error


def _caption(value: Any) -> str | Flaw:
    if value is None:
        return Flaw.EMPTY
    try:
        return clean(value.decode())
    except UnicodeDecodeError:
        return Flaw.BAD_ENCODING
