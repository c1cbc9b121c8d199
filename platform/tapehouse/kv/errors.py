"""What a user of the KV can meet beyond the errors that all rooms share."""

from __future__ import annotations

from tapehouse.core.errors import ConflictError, TapehouseError, TransientError, UsageError


class OutcomeUnknownError(TapehouseError):
    """A write was sent and nobody knows what became of it: it may or may not have been applied. Read, then decide."""


class OldValueError(TapehouseError):
    """A write has its outcome, which the text tells; the old value that it asked for cannot be read."""


class CrossSlotError(UsageError):
    """The keys of one batch belong to several slots."""


class DerivedKeyError(UsageError):
    """The key is below a derived prefix: it can be read and nothing else. RESP says READONLY, HTTP 403."""


class OtherBranchError(ConflictError):
    """A token of a branch of the log that this one did not come from: what it promises is not here."""


class StaleError(TransientError):
    """The view cannot be shown to be as fresh as was asked for."""


class NotServedHereError(TransientError):
    """No shard that is open here owns the key's slot now, or it is on its way to another."""


class WatchLaggedError(TransientError):
    """A watcher fell behind what is kept for watchers; what it missed must be read anew."""
