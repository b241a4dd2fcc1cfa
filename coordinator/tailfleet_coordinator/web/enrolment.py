"""The line that people paste on a board: it fetches the agent from this coordinator, checks it, enrols, and works.

Nothing but ``sh`` and ``python3`` is needed to run it. Addresses are judged here, too: a line that cannot work on
another machine comes with a warning.
"""

import ipaddress
import json
import shlex
import socket
from urllib.parse import urlsplit

from tailfleet_coordinator import names
from tailfleet_schema.errors import InputError

FILE = "tailfleet-agent.pyz"

LONGEST_NAME = 63
"""As long as a host's name may be."""

# The hook keeps a traceback from who pastes the line: what the coordinator answers is a sentence already.
_FETCH = (
    "import hashlib,ssl,sys,urllib.request as u;"
    "sys.excepthook=lambda t,e,_:print(e.read().decode() if hasattr(e,{read}) else e,file=sys.stderr);"
    "r=u.Request({url},headers={{{header}:{token}}});"
    "b=u.urlopen(r{context}).read();"
    "hashlib.sha256(b).hexdigest()=={sha256} or sys.exit({damaged});"
    "open({file},{mode}).write(b)"
)


def check_name(what: str, name: str) -> None:
    """Raise ``InputError`` for what cannot be the name of a ``what`` (a board, a token)."""
    names.check_name(what, name, LONGEST_NAME)


def check_path(path: str) -> None:
    """Raise ``InputError`` for what cannot be a file's path in one line of shell."""
    if not path or not path.isprintable():
        raise InputError(f"{path!r} cannot be the path of a file", "name the certificates' file on the board")


def enrolment_line(url: str, sha256: str, token: str, virtual_profile: str | None, ca: str | None = None) -> str:
    """One line of shell for the board."""
    fetch = _FETCH.format(
        read=_literal("read"),
        url=_literal(f"{url}/v1/agent.pyz"),
        header=_literal("Authorization"),
        token=_literal(f"Bearer {token}"),
        context="" if ca is None else f",context=ssl.create_default_context(cafile={_literal(ca)})",
        sha256=_literal(sha256),
        damaged=_literal("the agent arrived damaged"),
        file=_literal(FILE),
        mode=_literal("wb"),
    )
    trust = f" --ca {shlex.quote(ca)}" if ca is not None else ""
    profile = f" --virtual {shlex.quote(virtual_profile)}" if virtual_profile is not None else ""
    return (
        f"python3 -c {shlex.quote(fetch)} && python3 {FILE} enroll {shlex.quote(url)} --token {token}{trust}{profile}"
        f" && python3 {FILE} run"
    )


def _literal(text: str) -> str:
    """``text`` as Python writes it, within double quotes: the shell's are single ones."""
    return json.dumps(text, ensure_ascii=False)


def public_url(host: str, port: int, given: str | None, https: bool = False) -> str:
    """The address that boards are told: the one ``given``, else one made of where the coordinator listens."""
    if given is not None:
        return given.rstrip("/")
    return _url(own_address() if host in ("0.0.0.0", "::", "") else host, port, https)


def local_url(host: str, port: int, https: bool = False) -> str:
    """The address for programs on this machine."""
    return _url({"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host), port, https)


def _url(host: str, port: int, https: bool) -> str:
    return f"{'https' if https else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


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


def loopback_warning(url: str, port: int, https: bool = False) -> str | None:
    """Why a line with ``url`` works on this machine alone, and what mends it; None where it does not."""
    if not is_loopback(url):
        return None
    return (
        f"the coordinator listens on loopback only ({url}): this line works on this machine alone; for other boards"
        f" start it with: tailfleet up --host 0.0.0.0 --public-url {'https' if https else 'http'}://ADDRESS:{port}"
    )


def clear_warning(url: str) -> str | None:
    """Why a token must not be sent to ``url`` through a network that others are on; None where it may."""
    if urlsplit(url).scheme == "https" or is_loopback(url):
        return None
    return (
        f"tokens travel to {url} in the clear: whoever can listen on that network can use them; start the coordinator"
        " with --tls-cert and --tls-key, or keep to a network of your own"
    )
