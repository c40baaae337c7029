"""How far training images are moved about: the limits alone, without torch, since recipes hold them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Limits of what is drawn anew for each image; `bool(augment)` says whether anything is changed."""

    degrees: float = 0.0  # largest rotation either way
    scale: float = 0.0  # largest change of size, as a share of it: 0.1 draws from 0.9 to 1.1
    shift: float = 0.0  # largest shift along each axis, as a share of the side
    flip: float = 0.0  # probability of left and right changed

    def __bool__(self) -> bool:
        return self != Augment()
