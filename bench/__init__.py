"""Benchmarks: each measures its peer or its floor in the same run."""
