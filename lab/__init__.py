"""A whole hybrid cloud on one Linux machine."""
