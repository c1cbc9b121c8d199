"""Sample strategies: a compiled market maker, and the smallest one in plain Python."""

from tapehouse.strategies.maker import maker
from tapehouse.strategies.watcher import Watcher, watcher

__all__ = ["Watcher", "maker", "watcher"]
