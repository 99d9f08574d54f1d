"""Completing KVM: what its emulator lacks, L0 does in its stead, on the processor that level n has.

allowed      which instructions L0 does at all
translate    one instruction as an operation that C runs (native/completion.h)
completer    the vCPU's state, batches and the answer to the exit

A KVM that interprets level n's privileged code (KVM-PVM) stops at SSE and x87 arithmetic, POPCNT, CLAC and others.
The processor itself gives their results, flags and exceptions; C walks level n's page tables for their memory. A batch
goes on to the instructions behind the first, until one that is not L0's to do.
"""

from __future__ import annotations

from nestvmm.engines.completion.completer import BATCH, Completer

__all__ = ["BATCH", "Completer"]
