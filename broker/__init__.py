"""The heart: one noun per file, the store, operations and the engine."""
