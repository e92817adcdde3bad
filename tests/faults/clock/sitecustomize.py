"""A wall clock that a test sets, for every Python process that has this folder on its path.

`time.time` and `time.time_ns` are ahead by the seconds in the file that `FAULT_CLOCK` names. The
clocks of librdkafka and RocksDB, which are C, are not: a library that stands between them and the
kernel (faketime 0.9.10) breaks librdkafka's own waiting.
"""

import os
import time
from pathlib import Path

if "FAULT_CLOCK" in os.environ:
    _SECONDS_AHEAD = Path(os.environ["FAULT_CLOCK"])
    _true_time_ns = time.time_ns

    def _time_ns() -> int:
        return _true_time_ns() + int(_SECONDS_AHEAD.read_text()) * 1_000_000_000

    def _time() -> float:
        return _time_ns() / 1e9

    time.time_ns, time.time = _time_ns, _time
