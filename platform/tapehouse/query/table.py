"""What a query answers with: a Polars frame that hands itself on to Arrow and pandas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from tapehouse.core.errors import MissingError

if TYPE_CHECKING:
    import pyarrow


class Table(pl.DataFrame):
    """A `polars.DataFrame`; times are UTC."""

    def arrow(self) -> pyarrow.Table:
        """As an Arrow table."""
        return self.to_arrow()

    def pandas(self) -> Any:
        """As a pandas frame; raises MissingError where pandas is not installed."""
        try:
            return self.to_pandas()
        except ModuleNotFoundError as error:
            raise MissingError(f"{error.name} is not installed", hint=f"pip install {error.name}") from error
