"""Look for bytes that do harm, led by coverage: `make fuzz SECONDS=60`, or a few seconds in tests.

`python -m tests.fuzz.run pictures|records SECONDS`. Atheris (libFuzzer) sees the branches of our
code and of Pillow's Python; those of the C libraries below it are not instrumented, there it is
a mutator with good seeds. What it finds is kept in `build/fuzz`, and an input that does harm
becomes a file in `tests/fuzz/regressions/`, named by what it shows.
"""

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PIL", "agents", "schemas", "streams.kafka"]):
    from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
MADE = ROOT / "build" / "fuzz"
# A picture of the small limits is decoded in milliseconds; this is a hang.
HANG_SECONDS = 10
MEMORY_MEBIBYTES = 1024
LONGEST_BYTES = 20_000


def main() -> None:
    """Run one target for so long; libFuzzer ends the process, with 0 where nothing was found."""
    name, seconds = sys.argv[1:]
    target, seeds = TARGETS[name]
    corpus, started = MADE / name / "corpus", MADE / name / "seeds"
    regressions = ROOT / "tests" / "fuzz" / "regressions" / name
    for folder in (corpus, started, regressions):
        folder.mkdir(parents=True, exist_ok=True)
    for content in seeds():
        (started / hashlib.sha256(content).hexdigest()[:20]).write_bytes(content)
    options = {
        "max_total_time": seconds,
        "timeout": HANG_SECONDS,
        "rss_limit_mb": MEMORY_MEBIBYTES,
        "max_len": LONGEST_BYTES,
        "artifact_prefix": f"{MADE / name}/",
        "print_final_stats": 1,
        "verbosity": 0,
    }
    arguments = [sys.argv[0], *(f"-{option}={value}" for option, value in options.items())]
    atheris.Setup([*arguments, str(corpus), str(started), str(regressions)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
