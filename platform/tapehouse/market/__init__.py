"""Cells, records and instruments: the vocabulary of everything on the tape."""

from tapehouse.market.cell import (
    CELL,
    CELL_BYTES,
    CELLS_MAX,
    FILL_EXTENSION,
    KIND_SKIPPED_FROM,
    OPTION_EXTENSION,
    ORDER_EXTENSION,
    PAYLOAD_BYTES_MAX,
    Action,
    Cells,
    Flag,
    Kind,
    Side,
    empty_cells,
    from_words,
    words,
)
from tapehouse.market.gap import RECOVERED_FROM, Cause, Confidence, gap_record
from tapehouse.market.gap_spans import GapFold, GapSpan
from tapehouse.market.instrument import Instrument, read_definition
from tapehouse.market.records import (
    extend,
    pack_payload,
    record_starts,
    records_of,
    unpack_payload,
    whole_records,
)

__all__ = [
    "CELL",
    "CELLS_MAX",
    "CELL_BYTES",
    "FILL_EXTENSION",
    "KIND_SKIPPED_FROM",
    "OPTION_EXTENSION",
    "ORDER_EXTENSION",
    "PAYLOAD_BYTES_MAX",
    "RECOVERED_FROM",
    "Action",
    "Cause",
    "Cells",
    "Confidence",
    "Flag",
    "GapFold",
    "GapSpan",
    "Instrument",
    "Kind",
    "Side",
    "empty_cells",
    "extend",
    "from_words",
    "gap_record",
    "pack_payload",
    "read_definition",
    "record_starts",
    "records_of",
    "unpack_payload",
    "whole_records",
    "words",
]
