"""Reading the one-line files of ``/proc`` and ``/sys`` below a root; the ground that the sensors stand on."""

import glob
import math
import os
import re
from typing import List, Optional


def text(root: str, path: str) -> str:
    """The file's text without surrounding blanks and NULs. Raises ``OSError``."""
    with open(os.path.join(root, path), "rb") as file:
        return file.read().decode("utf-8", "replace").strip(" \t\r\n\0")


def text_or_none(root: str, path: str) -> Optional[str]:
    """The file's text, or None where it is absent, closed to this user, or its part of the board sleeps."""
    try:
        return text(root, path)
    except OSError:
        return None


def number(root: str, path: str) -> float:
    """The number that the file begins with. Raises ``OSError``, or ``ValueError`` where there is none."""
    value = float((text(root, path).split() or [""])[0])
    if not math.isfinite(value):
        raise ValueError("not a finite number: {}".format(value))
    return value


def matching(root: str, pattern: str) -> List[str]:
    """Paths below ``root`` that match ``pattern``, relative to it, numbers in numeric order."""
    found = glob.glob(os.path.join(glob.escape(root), pattern))
    return sorted((os.path.relpath(path, root) for path in found), key=_natural)


def exists(root: str, path: str) -> bool:
    """Whether there is such a file or folder."""
    return os.path.exists(os.path.join(root, path))


def _natural(path: str) -> List[str]:
    return [piece.zfill(12) if piece.isdigit() else piece for piece in re.split(r"(\d+)", path)]
