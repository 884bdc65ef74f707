"""A process that another one started → its end when that one dies, even by SIGKILL."""

import ctypes
import os
import signal
import sys

# prctl(2): the signal that the kernel sends to this process when the thread that started it has ended.
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, kind: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel send `kind` to this process when its parent is gone, and end it now if `parent` is gone already.

    The kernel watches the thread that started this process: start it from one that lives as long as it is needed.
    Children of this process do not inherit the setting. Systems other than Linux have no such call.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, kind)
    if os.getppid() != parent:  # it died before the request
        os._exit(1)
