"""Read levels, and the tokens by which a reader says what it has seen.

- `Eventual`: from the view as it is; with `max_staleness_ns`, only where the view is known to be that fresh.
- `Session`: from a view that has applied all that this session wrote and read, whichever gateway it asks.
- `Linearizable`: from a view that has applied a barrier which was appended after the read was asked for.
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass, replace

import xxhash

from tapehouse.core.errors import DataError
from tapehouse.core.ids import LOG_ID_BYTES

SESSION_SHARDS_MAX = 256  # tokens in one session's text
TOKEN_SEPARATOR = "."
_TOKEN = struct.Struct(f"<B{LOG_ID_BYTES}sHHQ")  # version, log id, shard, map epoch, sequence
_VERSION = 1
_CHECK_BYTES = 4  # so that the text needs no padding


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A place in one shard's log: whoever has applied it has seen what the token's giver saw.

    Attributes:
        epoch: Of the slot that was written or read: how often it had moved. Where another shard is thought to own a
            slot in an earlier epoch, it may have moved here since: what this token says must be seen first.
        sequence: Of the last frame that must have been applied.
    """

    log_id: bytes
    shard: int
    epoch: int
    sequence: int

    @property
    def text(self) -> str:
        """The token as opaque text: letters, digits, `-` and `_`."""
        packed = _TOKEN.pack(_VERSION, self.log_id, self.shard, self.epoch, self.sequence)
        return base64.urlsafe_b64encode(packed + _check(packed)).decode()

    @classmethod
    def parse(cls, text: str) -> Token:
        """The token that a text stands for.

        Raises:
            DataError: It is none, or was cut or mistyped.
        """
        try:
            raw = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
        except (UnicodeEncodeError, binascii.Error) as error:
            raise _no_token(text) from error
        packed, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
        if len(packed) != _TOKEN.size or check != _check(packed):
            raise _no_token(text)
        version, log_id, shard, epoch, sequence = _TOKEN.unpack(packed)
        if version != _VERSION:
            raise DataError(f"a session token of version {version}", hint="a newer tapehouse gave it: upgrade")
        return cls(log_id=log_id, shard=shard, epoch=epoch, sequence=sequence)


def _check(packed: bytes) -> bytes:
    return xxhash.xxh3_64(packed).digest()[:_CHECK_BYTES]


def _no_token(text: str) -> DataError:
    return DataError(f"{text[:64]!r} is no session token", hint="pass on what a write or a session answered, unchanged")


@dataclass(frozen=True, slots=True)
class Eventual:
    """The view as it is.

    Attributes:
        max_staleness_ns: How old what is read may be at most, ns; None for whatever there is, without ever waiting.
    """

    max_staleness_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Linearizable:
    """All that was answered to anyone before the read began."""


class Session:
    """What one reader has seen, shard by shard: its own writes, and never less than it has read before.

    Kept by the reader; every call at this level takes note of what it saw. `text` carries it to another process.
    """

    def __init__(self, tokens: tuple[Token, ...] = ()) -> None:
        self._tokens: dict[int, Token] = {}
        for token in tokens:
            self.note(token)

    @classmethod
    def parse(cls, text: str) -> Session:
        """The session that a text stands for; the empty text is one that has seen nothing.

        Raises:
            DataError: It is none.
        """
        parts = text.split(TOKEN_SEPARATOR) if text else []
        if len(parts) > SESSION_SHARDS_MAX:
            raise DataError(f"a session of {len(parts)} tokens", hint=f"at most {SESSION_SHARDS_MAX}")
        return cls(tuple(Token.parse(part) for part in parts))

    @property
    def tokens(self) -> tuple[Token, ...]:
        """All that was seen, a token for each shard."""
        return tuple(self._tokens.values())

    @property
    def text(self) -> str:
        """The session as opaque text."""
        return TOKEN_SEPARATOR.join(self._tokens[shard].text for shard in sorted(self._tokens))

    def token(self, shard: int) -> Token | None:
        """What was seen of a shard; None for nothing yet."""
        return self._tokens.get(shard)

    def note(self, token: Token) -> None:
        """Take note of a place that was seen; one before what was seen already changes nothing.

        The epoch that is kept is the latest of any slot in that shard: at least as much is waited for as was seen.
        """
        known = self._tokens.get(token.shard)
        if known is None or known.log_id != token.log_id:
            self._tokens[token.shard] = token
        elif known.sequence < token.sequence or known.epoch < token.epoch:
            epoch, sequence = max(known.epoch, token.epoch), max(known.sequence, token.sequence)
            self._tokens[token.shard] = replace(token, epoch=epoch, sequence=sequence)


Level = Eventual | Session | Linearizable
EVENTUAL = Eventual()
LINEARIZABLE = Linearizable()
