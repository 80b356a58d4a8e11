"""The ``isthmus`` command: one module per noun, loaded when that noun is typed."""
