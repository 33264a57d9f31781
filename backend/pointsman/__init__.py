"""Pointsman: a stateless router in front of remote TGI and vLLM engines."""

__version__ = "0.1.0"
