"""The line that people paste on a board: it fetches the agent from this coordinator, checks it, enrols, and works.

Nothing but ``sh`` and ``python3`` is needed to run it. Addresses are judged here, too: a line that cannot work on
another machine comes with a warning.
"""

import ipaddress
import re
import shlex
import socket
from urllib.parse import urlsplit

from tailfleet_schema.errors import InputError

FILE = "tailfleet-agent.pyz"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

_FETCH = (
    "import hashlib,sys,urllib.request as u;b=u.urlopen({url!r}).read();"
    "hashlib.sha256(b).hexdigest()=={sha256!r} or sys.exit({damaged!r});"
    "open({file!r},{mode!r}).write(b)"
)


def check_name(name: str) -> None:
    """Raise ``InputError`` for what cannot be a board's name."""
    if not _NAME.fullmatch(name):
        raise InputError(f"a board cannot be called {name!r}", "use letters, digits, '.', '_' and '-', at most 63")


def enrolment_line(url: str, sha256: str, token: str, virtual_profile: str | None) -> str:
    """One line of shell for the board."""
    fetch = _FETCH.format(
        url=f"{url}/v1/agent.pyz", sha256=sha256, damaged="the agent arrived damaged", file=FILE, mode="wb"
    )
    # No word of the program needs a single quote but its own strings; those are turned into double ones.
    fetch = fetch.replace("'", '"')
    profile = f" --virtual {shlex.quote(virtual_profile)}" if virtual_profile is not None else ""
    return (
        f"python3 -c {shlex.quote(fetch)} && python3 {FILE} enroll {shlex.quote(url)} --token {token}{profile}"
        f" && python3 {FILE} run"
    )


def public_url(host: str, port: int, given: str | None) -> str:
    """The address that boards are told: the one ``given``, else one made of where the coordinator listens."""
    if given is not None:
        return given.rstrip("/")
    if host in ("0.0.0.0", "::", ""):
        host = own_address()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_url(host: str, port: int) -> str:
    """The address for programs on this machine."""
    if host in ("0.0.0.0", ""):
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def own_address() -> str:
    """This machine's address in the network its default route leads to; the loopback one where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: connecting a datagram socket only asks the kernel for a route.
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def is_loopback(url: str) -> bool:
    """Whether ``url`` leads to the machine that uses it."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def loopback_warning(url: str, port: int) -> str | None:
    """Why a line with ``url`` works on this machine alone, and what mends it; None where it does not."""
    if not is_loopback(url):
        return None
    return (
        f"the coordinator listens on loopback only ({url}): this line works on this machine alone; for other boards"
        f" start it with: tailfleet up --host 0.0.0.0 --public-url http://ADDRESS:{port}"
    )
