"""The faults that are mixed: by the soak test each kind once, by `make chaos` for as long as asked.

The same seed deals the same faults to the same processes in the same order.
"""

from collections.abc import Collection, Iterator
from functools import partial
from typing import Final

from tests.faults.harness import SESSION_TIMEOUT_SECONDS, System, Worker

Fault = partial[None]

# Mostly back within the session, as a static member; sometimes the others have taken over.
_DOWN_SECONDS: Final = (0.0, 3.0)
TAKEN_OVER_SECONDS: Final = SESSION_TIMEOUT_SECONDS + 3.0
_ROUND_TRIP_SECONDS: Final = 2.0


def mixed_faults(system: System, spared: Collection[str] = ()) -> list[Fault]:
    """Give every kind of fault that a running system heals from, with values of the seed's.

    Those who are spared may be frozen and cut off, but live on.
    """
    chance = system.chance

    def down() -> float:
        return chance.uniform(*_DOWN_SECONDS)

    mortal = [worker for worker in system.workers.values() if worker.name not in spared]
    frozen = chance.choice(list(system.workers.values()))
    wiped = chance.choice([worker for worker in mortal if worker.role == "matcher"])
    return [
        *(partial(system.kill, worker, down()) for worker in mortal),
        *(partial(system.terminate, worker, down()) for worker in mortal),
        partial(system.freeze, frozen, TAKEN_OVER_SECONDS),
        partial(system.kill_broker, down()),
        partial(system.cut, [chance.choice(system.proxies)], down()),
        partial(system.stall, [chance.choice(system.proxies)], down()),
        partial(system.wipe, wiped, chance.choice([down(), TAKEN_OVER_SECONDS])),
    ]


def dealt_faults(system: System, spared: Collection[str] = ()) -> Iterator[Fault]:
    """Give faults for ever: all kinds, shuffled, again and again."""
    chance = system.chance
    while True:
        faults = [
            *mixed_faults(system, spared),
            partial(system.restart_broker, chance.uniform(*_DOWN_SECONDS)),
            partial(system.cut, system.proxies, chance.uniform(*_DOWN_SECONDS)),
            partial(system.stall, [chance.choice(system.proxies)], TAKEN_OVER_SECONDS),
            partial(system.slow_down, _ROUND_TRIP_SECONDS, TAKEN_OVER_SECONDS),
            *(
                partial(system.kill, worker, TAKEN_OVER_SECONDS)
                for worker in system.workers.values()
                if worker.role == "matcher" and worker.name not in spared
            ),
        ]
        chance.shuffle(faults)
        yield from faults


def hit(fault: Fault) -> Worker | None:
    """Give the process that a fault ends and starts again, if it is one of these."""
    first = fault.args[0]
    return first if isinstance(first, Worker) and fault.func.__name__ != "freeze" else None
