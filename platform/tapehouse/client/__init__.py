"""The Python client: `connect()` for notebooks and scripts, `AsyncClient` inside."""

from tapehouse.client.async_client import AsyncClient, Platform
from tapehouse.client.commands import Outcome
from tapehouse.client.orders import OrderOutcome
from tapehouse.client.reading import Reading
from tapehouse.client.sync_client import Client, connect

__all__ = ["AsyncClient", "Client", "OrderOutcome", "Outcome", "Platform", "Reading", "connect"]
