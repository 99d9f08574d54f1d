"""Traces of a run: each handled event, in order.

jsonl    JSON lines
"""

from nestvmm.trace.jsonl import JsonLines

__all__ = ["JsonLines"]
