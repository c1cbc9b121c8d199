"""A load on a gateway of the KV, and whether what it answers can be true."""
