"""Everything that nestvmm raises for a user's eyes.

    NestvmmError                what went wrong, where, and what to do: one message, no traceback
     +- UsageError              the command line or a tower file is wrong            exit status 2
     +- HostError               this host, or this image, cannot be run              exit status 3
     |   +- ImageError          the image is malformed or does not fit
     +- HypervisorError         a Python hypervisor raised or broke its contract     exit status 4
    kvm.KvmError                an ioctl failed: which, errno, missing capability    exit status 3

`nestvmm.kvm` is usable alone and so keeps its error to itself.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = ["HostError", "HypervisorError", "ImageError", "NestvmmError", "UsageError"]


class NestvmmError(Exception):
    """Base of all errors that end in one message."""

    status: ClassVar[int] = 3


class UsageError(NestvmmError):
    """The command line or a tower file is wrong."""

    status = 2


class HostError(NestvmmError):
    """This host or this image cannot run what was asked."""

    status = 3


class ImageError(HostError):
    """The image is malformed or does not fit into its guest's memory."""


class HypervisorError(NestvmmError):
    """A Python hypervisor raised, or answered what it must not."""

    status = 4
