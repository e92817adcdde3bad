"""A child of `streams.decoding.pool.DecodePool`: one job after the other until its pipe closes.

Started as `python -m streams.decoding.pool_child PARENT MEMORY_BYTES MODULE...`. Jobs come in on
standard input as pickles of `(function, arguments)`, answers go out on standard output as a length
and a pickle. Whatever a job raises ends the process: what is left of its memory is not to be
trusted.
"""

import ctypes
import importlib
import os
import pickle
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

LENGTH_BYTES = 4
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Guard this process, import what the jobs need, say so, and work."""
    parent, memory_bytes, *modules = sys.argv[1:]
    _guard(int(parent), int(memory_bytes))
    with os.fdopen(os.dup(0), "rb") as jobs, os.fdopen(os.dup(1), "wb") as answers:
        # A library that prints or reads must not disturb the pipes.
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for module in modules:
            importlib.import_module(module)
        _send(answers, None)
        while True:
            try:
                function, arguments = pickle.load(jobs)  # noqa: S301 - our parent writes it
            except EOFError:
                return
            answer = function(*arguments)
            del arguments
            _send(answers, answer)


def _guard(parent: int, memory_bytes: int) -> None:
    # SIGKILL when the parent's thread that started us ends, also in the middle of C code.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before that call
        sys.exit(1)
    # The parent decides when we end: a signal for its whole group must not look like a picture
    # that kills.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Where memory is short all the same, the kernel takes us first and not the worker.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


def _send(answers: BinaryIO, answer: object) -> None:
    payload = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    answers.write(len(payload).to_bytes(LENGTH_BYTES) + payload)
    answers.flush()


if __name__ == "__main__":
    main()
