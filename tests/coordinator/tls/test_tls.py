"""https: files that cannot be used, names that are covered, and who trusts whom, over real sockets."""

import json
import os
import re
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from tests.coordinator.conftest import Live

from tailfleet_agent.client import Client, Unreachable
from tailfleet_coordinator.client import Fleet
from tailfleet_coordinator.settings import Settings
from tailfleet_coordinator.tls import read_certificate
from tailfleet_coordinator.web.server import for_programs_here
from tailfleet_schema.errors import ConfigurationError, InputError, LabError
from tailfleet_schema.messages import EnrolRequest

HERE = "127.0.0.1"


def test_without_files_there_is_no_https():
    assert read_certificate(Settings()) is None


def test_half_a_pair_is_the_author_s_fault(authority):
    cert, key = authority.issue(HERE)
    for half in ({"tls_cert": cert}, {"tls_key": key}):
        with pytest.raises(InputError, match="go together"):
            read_certificate(Settings(**half))


def encrypted(key, to):
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    to.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    return to


def test_files_that_cannot_be_used_are_named_before_anything_starts(authority):
    cert, key = authority.issue(HERE)
    _, other = authority.issue(HERE)
    nonsense = authority.folder / "nonsense.pem"
    nonsense.write_text("nonsense")
    for pair, words in (
        ((authority.folder / "none.crt", key), "cannot read .*none.crt"),
        ((cert, authority.folder), "cannot read .*certificates"),
        ((cert, other), f"{other.name} is not that of the certificate"),
        ((nonsense, key), "not a certificate and its key"),
        ((cert, nonsense), "not a certificate and its key"),
        ((cert, encrypted(key, authority.folder / "encrypted.key")), "encrypted.key is encrypted"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            read_certificate(Settings(tls_cert=pair[0], tls_key=pair[1]))


def test_the_command_line_says_it_in_one_sentence(authority, tmp_path):
    cert, key = authority.issue(HERE)
    for options, status in ((["--tls-cert", str(cert)], 2), (["--tls-cert", str(key), "--tls-key", str(key)], 1)):
        command = [sys.executable, "-m", "tailfleet_coordinator.cli.main", "up", "--state", str(tmp_path / "state")]
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        assert done.returncode == status
        assert len(done.stderr.strip().splitlines()) == 2
        assert done.stderr.startswith("tailfleet: ")
    assert not (tmp_path / "state").exists()


def test_which_names_a_certificate_covers(authority):
    certificate = read_certificate(authority.settings("fleet.example", HERE))
    assert certificate.covers("fleet.example")
    assert certificate.covers(HERE)
    assert not certificate.covers("other.example")
    assert not certificate.covers("::1")
    assert certificate.refused_as(HERE) is None
    late = read_certificate(authority.settings(HERE, expired=True))
    assert "expired" in late.refused_as(HERE).verify_message


def test_programs_here_are_told_an_address_that_the_certificate_covers(authority, caplog):
    local, public = "https://127.0.0.1:1", "https://fleet.example:1"
    both = read_certificate(authority.settings("fleet.example", HERE))
    assert for_programs_here(both, local, public) == {"url": local, "ca": str(both.file)}
    named = read_certificate(authority.settings("fleet.example"))
    assert for_programs_here(named, local, public)["url"] == public
    assert caplog.text == ""
    for_programs_here(named, local, "https://other.example")
    assert "will refuse the certificate" in caplog.text


@pytest.fixture
def serve(lab, authority, tmp_path):
    running = []

    def serve(*names, **options):
        running.append(Live(lab, tmp_path, read_certificate(authority.settings(*names, **options))))
        return running[-1]

    yield serve
    for live in running:
        live.close()


def test_programs_trust_the_authority_or_the_certificate_itself(serve, authority, tmp_path, monkeypatch):
    for name in ("TAILFLEET_URL", "TAILFLEET_TOKEN", "TAILFLEET_CA"):
        monkeypatch.delenv(name, raising=False)
    live = serve(HERE)
    leaf = next(authority.folder.glob("*.crt"))
    for ca in (authority.file, leaf):
        with Fleet(live.url, live.viewer, str(ca)) as fleet:
            assert fleet.health().status == "ok"
    with Fleet(live.url, live.viewer) as fleet, pytest.raises(LabError, match=r"not trusted: .*issuer") as refusal:
        fleet.health()
    assert "TAILFLEET_CA" in refusal.value.mend
    monkeypatch.setenv("TAILFLEET_CA", str(authority.file))
    with Fleet(live.url, live.viewer) as fleet:
        assert fleet.health().status == "ok"
    monkeypatch.delenv("TAILFLEET_CA")

    # What the coordinator of this machine leaves for programs, of which the certificate is a part.
    monkeypatch.setenv("TAILFLEET_STATE", str(tmp_path))
    (tmp_path / "coordinator.json").write_text(json.dumps({"url": live.url, "token": live.viewer, "ca": str(leaf)}))
    with Fleet() as fleet:
        assert fleet.health().status == "ok"
    for ca, words in ((tmp_path / "none.pem", "No such file"), (tmp_path / "coordinator.json", "cannot be read")):
        with pytest.raises(ConfigurationError, match=words):
            Fleet(live.url, live.viewer, str(ca))


def test_another_certificate_of_the_same_authority_is_not_the_coordinator_s(serve, authority):
    live = serve(HERE)
    other, _ = authority.issue(HERE)
    with Fleet(live.url, live.viewer, str(other)) as fleet, pytest.raises(LabError, match="not trusted"):
        fleet.health()


def test_an_agent_trusts_whom_it_is_told_to(serve, authority, lab):
    live = serve(HERE)
    with Fleet(live.url, live.operator, str(authority.file)) as fleet:
        token = fleet.enroll_board("nano").token
    reply = Client(live.url, token, str(authority.file)).enroll(EnrolRequest(lab.facts_of()))
    assert reply.board == "nano"
    with pytest.raises(Unreachable, match="is not trusted"):
        Client(live.url, token).enroll(EnrolRequest(lab.facts_of()))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Client(live.url, token, str(authority.folder / "none.pem"))


@pytest.mark.parametrize(
    ("name", "expired", "words"),
    [(HERE, True, "is not trusted: certificate has expired"), ("fleet.example", False, "is not trusted: .*mismatch")],
)
def test_an_agent_enrols_at_no_other_certificate(serve, authority, tmp_path, name, expired, words):
    """The real command line; what it says is one sentence and what to do."""
    live = serve(name, expired=expired)
    live.lab.store.create_enrolment("nano", None, "0" * 64, 60)
    home = tmp_path / "home"
    command = [
        sys.executable, "-m", "tailfleet_agent.cli", "enroll", live.url, "--token", "tf-enrol-x", "--home", str(home),
        "--virtual", "jetson-nano", "--ca", str(authority.file),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_PROXY": "*"})
    assert done.returncode == 1
    sentence, mend = done.stderr.strip().splitlines()
    assert re.search(words, sentence), sentence
    assert "--ca" in mend
    assert not home.exists()
