"""The matchmaker: pure decisions over a table of hosts. No I/O, no clock, no database."""
