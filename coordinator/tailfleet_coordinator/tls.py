"""Certificates: the coordinator's own, read and judged before anything starts, and whom programs trust.

Whether a certificate covers a name is not parsed but tried: a handshake in memory, by the rules that boards apply.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from tailfleet_coordinator.settings import Settings
from tailfleet_schema.errors import ConfigurationError, InputError

_OF_ANOTHER_NAME = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


@dataclass(frozen=True)
class Certificate:
    """A certificate with its key, ready to serve."""

    file: Path
    context: ssl.SSLContext

    def refused_as(self, host: str) -> ssl.SSLCertVerificationError | None:
        """Why who trusts this very certificate would not take it for ``host``'s; None where they would."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = self.context.wrap_bio(to_server, to_client, server_side=True)
        client = trusting(str(self.file)).wrap_bio(to_client, to_server, server_hostname=host)
        try:
            while not all([_shaken(client), _shaken(server)]):
                pass
        except ssl.SSLCertVerificationError as error:
            return error
        return None

    def covers(self, host: str) -> bool:
        """Whether ``host`` (a name or an address) is one that the certificate was made out to."""
        error = self.refused_as(host)
        return error is None or error.verify_code not in _OF_ANOTHER_NAME


def read_certificate(settings: Settings) -> Certificate | None:
    """The certificate that the settings name; None where they name none.

    Raises ``InputError`` for half a pair, ``ConfigurationError`` for files that cannot be used.
    """
    file, key = settings.tls_cert, settings.tls_key
    if file is None and key is None:
        return None
    if file is None or key is None:
        raise InputError("--tls-cert and --tls-key go together", "name both files, or neither")
    for path in (file, key):
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {path}: {error.strerror}", "name a PEM file that is there"
            ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    asked = False

    def password() -> str:
        # Without this, OpenSSL would ask on the terminal.
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(file, key, password)
    except (ssl.SSLError, ValueError) as error:
        if asked:
            raise ConfigurationError(
                f"the key in {key} is encrypted, and a coordinator that starts by itself has no password for it",
                f"openssl pkey -in {key} -out PLAIN_KEY, readable by the coordinator alone",
            ) from error
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(
                f"the key in {key} is not that of the certificate in {file}", "name the two that were made together"
            ) from error
        raise ConfigurationError(
            f"{file} and {key} are not a certificate and its key ({reason or error})", "both must be PEM files"
        ) from error
    return Certificate(file, context)


def trusting(ca: str) -> ssl.SSLContext:
    """What trusts the certificates in the file ``ca``, whether of authorities or of a server, and no others.

    Raises ``ConfigurationError``.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise ConfigurationError(
            f"the certificates in {ca} cannot be read: {error.strerror or error}", "name another file: TAILFLEET_CA"
        ) from error
    # A certificate in the file is trusted itself, also where another authority has signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _shaken(side: ssl.SSLObject) -> bool:
    """Take the handshake one step further; whether it is through."""
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
