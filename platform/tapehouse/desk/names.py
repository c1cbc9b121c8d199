"""What the numbers in EVENTS are called: instruments by id and accounts by number, learnt from the log itself."""

from __future__ import annotations

import json

import numpy as np

from tapehouse.core.errors import DataError, DecodeError, IntegrityError
from tapehouse.core.ids import encode_token
from tapehouse.desk.commands import EVENTS, AccountOpened
from tapehouse.desk.state import ACCOUNTS_MAX, SYMBOL_IDS_MAX
from tapehouse.market import (
    KIND_LAST,
    KIND_SKIPPED_FROM,
    Cells,
    Instrument,
    Kind,
    read_definition,
    records_of,
    unpack_payload,
)

STRATEGY_ACCOUNT = "strategy"  # account 0, unless an event names it
_OPENED = b'"account.opened"'


class Names:
    """Instruments and accounts, part of the state of every projection of EVENTS."""

    def __init__(self) -> None:
        self.instruments: dict[int, Instrument] = {}
        self.accounts: dict[int, str] = {0: STRATEGY_ACCOUNT}
        self._tokens: dict[int, str] = {}

    def learn(self, cells: Cells) -> list[Instrument]:
        """Take up the definitions and opened accounts among whole records; returns the new instruments.

        Raises:
            DecodeError: A record is of an unknown kind or cannot be read.
            DataError: A definition contradicts an earlier one.
        """
        kinds = cells["kind"]
        unknown = np.flatnonzero((kinds == 0) | ((kinds > KIND_LAST) & (kinds < KIND_SKIPPED_FROM)))
        if len(unknown):
            raise DecodeError(
                f"record kind {int(kinds[unknown[0]])} is unknown", subject="EVENTS", hint="upgrade tapehouse"
            )
        fresh = []
        for _, record in records_of(cells, Kind.DEFINITION):
            instrument = read_definition(record)
            known = self.instruments.get(instrument.id)
            if known is None:
                self._define(instrument)
                fresh.append(instrument)
            elif known != instrument:
                instrument.require_revision_of(known)
                self.instruments[instrument.id] = instrument
        for _, record in records_of(cells, Kind.EVENT):
            payload = unpack_payload(record)
            if _OPENED in payload:  # most events are outcomes, which name nobody
                _, body = EVENTS.decode(payload)
                if isinstance(body, AccountOpened):
                    self.accounts[body.number] = body.account
        return fresh

    def _define(self, instrument: Instrument) -> None:
        if not 0 < instrument.id < SYMBOL_IDS_MAX:
            raise DataError(f"instrument id {instrument.id} is beyond {SYMBOL_IDS_MAX - 1}", subject=instrument.symbol)
        token = encode_token(instrument.symbol)
        if token in self._tokens.values():
            token = f"{token}@{instrument.id}"
        self.instruments[instrument.id] = instrument
        self._tokens[instrument.id] = token

    def account(self, number: int) -> str:
        """An account's name; its number where nothing named it."""
        return self.accounts.get(number, str(number))

    def token(self, instrument_id: int) -> str:
        """An instrument's part of a key: its symbol, with `@` and its id where another has the same."""
        return self._tokens[instrument_id]

    def snapshot(self) -> bytes:
        """Canonical JSON, instruments in the order of their definition."""
        state = {
            "accounts": sorted(self.accounts.items()),
            "instruments": [instrument.terms() for instrument in self.instruments.values()],
        }
        return json.dumps(state, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def restore(cls, data: bytes) -> Names:
        """What `snapshot` returned; raises IntegrityError for other bytes."""
        names = cls()
        try:
            state = json.loads(data)
            names.accounts = {int(number): str(name) for number, name in state["accounts"]}
            for fields in state["instruments"]:
                names._define(Instrument(**fields))
        except (KeyError, ValueError, TypeError, DataError) as error:
            raise IntegrityError(f"the names of a snapshot are damaged: {error}", hint="refold the log") from error
        if any(not 0 <= number < ACCOUNTS_MAX for number in names.accounts):
            raise IntegrityError("a snapshot names impossible accounts", hint="refold the log")
        return names
