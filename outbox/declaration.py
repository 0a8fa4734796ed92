"""Where a declaration is made, which tells a second one from the first one made again."""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType


@dataclass(frozen=True, slots=True)
class Site:
    """The code that makes a declaration, and its line there."""

    code: weakref.ref[CodeType]
    """The code of a module is gone once it has run; a reload makes another one."""
    file: str
    line: int

    def is_beside(self, other: Site) -> bool:
        """Tell whether both are in one run of the same code, at two places."""
        code = self.code()
        return code is not None and code is other.code() and self.line != other.line

    def __str__(self) -> str:
        """Name it as people find it."""
        return f"{self.file}:{self.line}"


def site() -> Site:
    """Return where the function that asks was called."""
    frame = sys._getframe(2)  # noqa: SLF001  # of the standard library
    return Site(weakref.ref(frame.f_code), frame.f_code.co_filename, frame.f_lineno)
