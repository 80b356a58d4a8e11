"""The version, of this distribution and of ``isthmus-server``: stated here only."""

__version__ = "0.1.0"
