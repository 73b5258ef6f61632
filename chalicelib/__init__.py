"""Tidemark's pipeline: collect, process, aggregate, archive, compact, report, query, live."""

__version__ = "0.1.0"
