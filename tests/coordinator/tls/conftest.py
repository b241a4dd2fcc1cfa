"""Throw-away authorities and the certificates that they sign."""

import datetime

import pytest
import trustme

from tailfleet_coordinator.settings import Settings

PAST = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


class Authority:
    """Writes its own certificate and those it issues into ``folder``."""

    def __init__(self, folder):
        self.folder = folder
        self._ca = trustme.CA()
        self.file = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, *names, expired=False):
        """Paths of a certificate for ``names`` and of its key."""
        when = {"not_before": PAST, "not_after": PAST + datetime.timedelta(days=1)} if expired else {}
        issued = self._ca.issue_cert(*names, **when)
        stem = f"{len(list(self.folder.iterdir()))}"
        cert, key = self.folder / f"{stem}.crt", self.folder / f"{stem}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return cert, key

    def settings(self, *names, **options):
        cert, key = self.issue(*names, **options)
        return Settings(state_dir=self.folder / "state", tls_cert=cert, tls_key=key)


@pytest.fixture
def authority(tmp_path):
    folder = tmp_path / "certificates"
    folder.mkdir()
    return Authority(folder)
