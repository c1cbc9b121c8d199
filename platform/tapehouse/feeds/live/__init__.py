"""The sockets of the feeds room: the only place in it that has any. Decisions are made outside it, without I/O."""
