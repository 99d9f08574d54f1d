"""Traces of a run: each handled event, in order, with what the world switch, L0 and the handler took of its time.

recorder     takes the events from the run loop's ring to a file, as one of two formats
site         where level n was and who handled what it did: what the events of one instruction have in common
instruction  that instruction, found in the guest's memory
text         what is written of an event: JSON with holes
chrome       the format that ui.perfetto.dev opens
jsonl        JSON lines
reader       reads both again
summary      counts and times by reason and handler
"""

from nestvmm.trace.recorder import Recorder

__all__ = ["Recorder"]
