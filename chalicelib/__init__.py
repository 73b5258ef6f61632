"""Tidemark's pipeline: collect, process, aggregate, archive, compact, consolidate, close, query, live."""

__version__ = "0.1.0"
