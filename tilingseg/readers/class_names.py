"""What the classes of a raster are called that does not name them itself.

Where the file is silent, a class is `class_N`: N is its value in a mask, its band among
probabilities. Such a name says which class is meant. Any other names are the user's own: one for
each class, in their order.
"""

from __future__ import annotations

import re

from tilingseg.errors import SceneError

_NUMBERED = re.compile(r"class_\d+")


def class_names(
    uri: str, numbered: tuple[str, ...], given: tuple[str, ...], what: str
) -> tuple[str, ...]:
    """Return the names of all classes of a raster.

    Args:
        uri: the raster, for messages.
        numbered: its `class_N`, in the order of N.
        given: names by the user; left aside where one of them is in `numbered`: they choose then.
        what: counts the classes, for messages, such as `2 bands of probabilities`.

    Raises:
        SceneError: not every class is given a name, or one is given the number of another.
    """
    if not given or set(given) & set(numbered):
        return numbered
    for name in given:
        if _NUMBERED.fullmatch(name):
            raise SceneError(f"{uri} has no class {name!r}; it has {', '.join(numbered)}")
    if len(given) != len(numbered):
        raise SceneError(
            f"{uri} has {what} without names; {len(given)} given ({', '.join(given)}): name all "
            "of them, in their order"
        )
    return given
