"""The agent as one file: a zip that Python runs, of the schema, the agent and ``tailfleet_reduce`` as installed here.

The same sources give the same bytes. Serving it, and the line that fetches it, are left to the web room; torch and
timm are the board's own.
"""

import hashlib
import importlib.util
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tailfleet_schema.errors import ConfigurationError

PACKAGES = ("tailfleet_schema", "tailfleet_agent", "tailfleet_reduce")

# The first lines must run on any Python: they are what tells an old one what it lacks.
MAIN = """\
import sys

if sys.version_info < (3, 6):
    sys.exit("tailfleet-agent needs Python 3.6 or newer, this is %d.%d" % sys.version_info[:2])
try:
    import dataclasses  # noqa: F401
except ImportError:
    sys.exit("tailfleet-agent: Python 3.6 needs the dataclasses backport: %s -m pip install dataclasses"
             % sys.executable)

from tailfleet_agent.cli import main

sys.exit(main())
"""

OLDEST = (1980, 1, 1, 0, 0, 0)
"""The one date a zip can hold that says nothing."""


@dataclass(frozen=True)
class Bundle:
    """The file's bytes and their sha256 in hexadecimal."""

    content: bytes
    sha256: str


def build() -> Bundle:
    """The agent that goes with this coordinator. Raises ``ConfigurationError`` where a package is not installed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        _add(archive, "__main__.py", MAIN.encode())
        for package in PACKAGES:
            folder = _folder(package)
            for file in sorted(folder.rglob("*.py")):
                _add(archive, f"{package}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    content = b"#!/usr/bin/env python3\n" + packed.getvalue()
    return Bundle(content, hashlib.sha256(content).hexdigest())


def _folder(package: str) -> Path:
    # Found, not imported: the coordinator runs none of the board's code in its own process.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(f"the package {package} is not installed", "install tailfleet again")
    return Path(next(iter(spec.submodule_search_locations)))


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, OLDEST)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
