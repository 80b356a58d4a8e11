"""The Python SDK. Its public names are those of ``isthmus`` itself; the modules here are one per noun."""
