"""Kinds of site: each folder drives one kind behind ``providers.port``."""
