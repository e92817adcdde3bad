"""The faults that are mixed: by the soak test each once."""

from functools import partial
from typing import Final

from tests.faults.harness import SESSION_TIMEOUT_SECONDS, System

# Mostly back within the session, as a static member; sometimes the others have taken over.
_DOWN_SECONDS: Final = (0.0, 3.0)
TAKEN_OVER_SECONDS: Final = SESSION_TIMEOUT_SECONDS + 3.0


def mixed_faults(system: System) -> list[partial[None]]:
    """Give every kind of fault that a running system heals from, with values of the seed's."""
    chance = system.chance

    def down() -> float:
        return chance.uniform(*_DOWN_SECONDS)

    frozen = chance.choice(list(system.workers.values()))
    wiped = chance.choice(system.of("matcher"))
    return [
        *(partial(system.kill, worker, down()) for worker in system.workers.values()),
        *(partial(system.terminate, worker, down()) for worker in system.workers.values()),
        partial(system.freeze, frozen, TAKEN_OVER_SECONDS),
        partial(system.kill_broker, down()),
        partial(system.cut, [chance.choice(system.proxies)], down()),
        partial(system.stall, [chance.choice(system.proxies)], down()),
        partial(system.wipe, wiped, chance.choice([down(), TAKEN_OVER_SECONDS])),
    ]
