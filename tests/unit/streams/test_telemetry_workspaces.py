"""The busiest workspaces: ten by name, the others together, and nothing without a bound."""

from streams.telemetry.workspaces import INTERVAL_SECONDS, BusiestWorkspaces


class World:
    """The counts, on a clock of their own."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.workspaces = BusiestWorkspaces(lambda: self.seconds)

    def count(self, **pictures: int) -> None:
        """Count so many pictures of each workspace."""
        for name, number in pictures.items():
            for _ in range(number):
                self.workspaces.count(name)


def test_an_interval_is_told_when_it_is_over() -> None:
    """Not before; and no longer than the next one lasts, also where that has no picture."""
    world = World()
    world.count(a=3, b=1)
    assert world.workspaces.busiest() == {("",): 0}
    world.seconds = INTERVAL_SECONDS + 1
    told = {("",): 0, ("a",): 3, ("b",): 1}
    assert world.workspaces.busiest() == told
    world.count(c=1)
    assert world.workspaces.busiest() == told
    world.seconds = 2 * INTERVAL_SECONDS + 1
    assert world.workspaces.busiest() == {("",): 0, ("c",): 1}
    world.seconds = 4 * INTERVAL_SECONDS
    assert world.workspaces.busiest() == {("",): 0}
    world.count(d=2)
    assert world.workspaces.busiest() == {("",): 0}


def test_the_sum_is_the_whole() -> None:
    """Ten have names, the others are one number."""
    world = World()
    world.count(**{f"w{number}": number for number in range(1, 31)})
    world.seconds = INTERVAL_SECONDS
    told = world.workspaces.busiest()
    assert len(told) == 11
    assert sum(told.values()) == 31 * 30 / 2
    assert {name for (name,) in told} == {"", *(f"w{number}" for number in range(21, 31))}


def test_memory_is_bounded() -> None:
    """Beyond ten thousand workspaces of one interval, further ones are among the others."""
    world = World()
    for number in range(12_000):
        world.workspaces.count(f"w{number}")
    assert len(world.workspaces._counts) <= 10_001
    world.seconds = INTERVAL_SECONDS
    assert sum(world.workspaces.busiest().values()) == 12_000
