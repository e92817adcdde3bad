"""Processes that die exactly where it matters: around delivery, write and commit."""

import signal
from functools import partial
from typing import Final

from streams.failpoints import NAMES, VARIABLE, Name
from tests.faults.harness import Role, System, Worker

# The hasher has nothing to write.
OF_ROLE: Final[dict[Role, tuple[Name, ...]]] = {
    "matcher": NAMES,
    "hasher": tuple(name for name in NAMES if not name.startswith("write.")),
}
# Which of the times that a process passes a point; all are there within seconds of load.
TIMES: Final = (1, 6)


def has_ended(worker: Worker, before: int) -> bool:
    """Whether it ended once more, unasked."""
    return len(worker.unasked_exits) > before


def test_each_fail_point(system: System) -> None:
    """Killed before and after delivery, write and commit: one outcome each, none lost."""
    to_do = {role: list(names) for role, names in OF_ROLE.items()}
    for names in to_do.values():
        system.chance.shuffle(names)
    died = []
    with system.publishing(), system.expecting_ends(*system.workers.values()):
        while any(to_do.values()):
            waited_for = []
            for worker in system.workers.values():
                if to_do[worker.role]:
                    point = f"{to_do[worker.role].pop()}@{system.chance.randint(*TIMES)}"
                    ends = len(worker.unasked_exits)
                    system.restart(worker, **{VARIABLE: point})
                    # The one that is started again afterwards lives on.
                    del worker.environment[VARIABLE]
                    waited_for.append((worker, ends, point))
            for worker, ends, point in waited_for:
                system.await_true(
                    f"{worker.name} dies at {point}", partial(has_ended, worker, ends)
                )
                died += worker.unasked_exits[ends:]
    assert died == [-signal.SIGKILL] * sum(len(names) for names in OF_ROLE.values())
    assert system.judge().outcomes
