"""Arrays that grow at their end: what is added in pieces is moved a few times, not each time."""

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

_LEAST_ROOM: Final = 1024
_ROOM_SHARE: Final = 4

T = TypeVar("T", bound=np.generic)


def with_room(array: NDArray[T], count: int) -> NDArray[T]:
    """Give the same array, or a longer copy where it has no room for so many elements.

    Not `np.resize`, which fills what is added, and holds up to twice what was asked for.
    """
    if count <= len(array):
        return array
    longer = np.empty(count + max(_LEAST_ROOM, count // _ROOM_SHARE), array.dtype)
    longer[: len(array)] = array
    return longer
