"""The native API: JSON under ``/v1``, one router per noun. It parses, authenticates and maps; the broker decides."""

from api.native.app import create_app

__all__ = ["create_app"]
