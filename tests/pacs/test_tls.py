"""DICOM over TLS, both ways, with certificates made here; and peers whose TLS does not hold."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pynetdicom
import pytest
from peers import associate, study_files
from pynetdicom import evt
from tiny_batch import study_uid, wait_for

from medpanoptic.batch.keys import load_key
from medpanoptic.batch.outputs import write_marker
from medpanoptic.errors import BatchError
from medpanoptic.pacs.inbox import Inbox, InboxLimits
from medpanoptic.pacs.parcels import Backoff
from medpanoptic.pacs.receiver import Receiver
from medpanoptic.pacs.sender import send
from medpanoptic.pacs.tls import Tls, client_context, server_context

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl program makes the certificates")
MARK = dict.fromkeys(("fingerprint", "input_digest", "model_hash", "parameter_hash", "fallback"), "")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> dict[str, Tls]:
    """Three that sign themselves: of this machine, of a client, of a machine of another name. Each trusts nobody."""
    place, found = tmp_path_factory.mktemp("tls"), {}
    for name, subject in {"here": "IP:127.0.0.1", "client": "DNS:scanner", "elsewhere": "DNS:elsewhere"}.items():
        files = place / f"{name}.crt", place / f"{name}.key"
        words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        words += ["-subj", f"/CN={name}", "-addext", f"subjectAltName={subject}", "-out", files[0], "-keyout", files[1]]
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
        found[name] = Tls(*files)
    return found


def trusting(tls: Tls, other: Tls) -> Tls:
    return Tls(tls.certificate, tls.key, other.certificate)


@contextmanager
def receiver(place: Path, tls: Tls):
    inbox = Inbox(place / "in", load_key(place / "key"), quiet_s=60, limits=InboxLimits(4, 1, 1))
    with Receiver(inbox, host="127.0.0.1", port=0, ae_title="MEDPANOPTIC", allow=["MEDPANOPTIC"], tls=tls) as server:
        yield server, inbox.folder / inbox.handle(study_uid(1))


@pytest.fixture
def out(tmp_path):
    """The output of a batch with two DICOM files."""
    folder = tmp_path / "out" / "results" / ("a" * 20)
    folder.mkdir(parents=True)
    for path in study_files(tmp_path, slices=2):
        shutil.copy(path, folder)
    write_marker(folder, {**MARK, "study": folder.name, "kind": "dicom", "state": "done", "things": 1})
    return tmp_path / "out"


def deliver(out, port, tls):
    return send(
        out, to=f"127.0.0.1:{port}/MEDPANOPTIC", tls=tls, timeout_s=10, backoff=Backoff(1, first_s=0.1, longest_s=0.1)
    )


def test_what_is_sent_over_tls_arrives(tmp_path, out, certificates):
    with receiver(tmp_path, certificates["here"]) as (server, arrived):
        sent = deliver(out, server.port, Tls(authority=certificates["here"].certificate))
        assert (sent.counts["delivered"], sent.stopped) == (2, "")
        here = {pydicom.dcmread(path).SOPInstanceUID for path in arrived.glob("*.dcm")}
    assert here == {pydicom.dcmread(path).SOPInstanceUID for path in (out / "results").rglob("*.dcm")}


def test_a_server_may_ask_who_calls(tmp_path, out, certificates):
    here, client = certificates["here"], certificates["client"]
    with receiver(tmp_path, trusting(here, client)) as (server, _):
        unknown = deliver(out, server.port, Tls(authority=here.certificate))
        assert (unknown.stopped, unknown.status, unknown.counts["queued"]) == ("PEER-TLS", 4, 2)
        assert server.counts["new"] == 0
        assert deliver(out, server.port, trusting(client, here)).counts["delivered"] == 2


@pytest.mark.parametrize(
    ("server_is", "trusted", "status"),
    [("here", "client", "self-signed certificate"), ("elsewhere", "elsewhere", "IP address mismatch")],
)
def test_a_certificate_that_does_not_hold_ends_the_run_and_loses_nothing(
    tmp_path, out, certificates, server_is, trusted, status
):
    with receiver(tmp_path, certificates[server_is]) as (server, arrived):
        sent = deliver(out, server.port, Tls(authority=certificates[trusted].certificate))
        assert (sent.stopped, sent.counts["queued"]) == ("PEER-TLS", 2)
        assert not arrived.exists()
    (row,) = sent.codes
    assert status in row["status"]


def test_plain_dicom_and_tls_do_not_mix(tmp_path, out, certificates):
    with receiver(tmp_path, certificates["here"]) as (server, arrived):
        assert deliver(out, server.port, None).counts["delivered"] == 0
        assert not associate(server.port, ae_title="MEDPANOPTIC").is_established
        assert not arrived.exists()
    entity = pynetdicom.AE("PACS")
    entity.supported_contexts = pynetdicom.AllStoragePresentationContexts
    plain = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)])
    try:
        again = send(
            out, to=f"127.0.0.1:{plain.server_address[1]}/PACS", tls=Tls(), timeout_s=2, backoff=Backoff(1, 0.1, 0.1)
        )
    finally:
        entity.shutdown()
    assert again.counts["delivered"] == 0


def test_a_client_that_says_nothing_keeps_nobody_out(tmp_path, out, certificates):
    with (
        receiver(tmp_path, certificates["here"]) as (server, _),
        socket.create_connection(("127.0.0.1", server.port)) as silent,
    ):
        silent.sendall(b"\x16")  # the first byte of a handshake
        assert deliver(out, server.port, Tls(authority=certificates["here"].certificate)).counts["delivered"] == 2


def test_an_independent_client_gets_in(tmp_path, certificates):
    context = ssl.create_default_context(cafile=str(certificates["here"].certificate))
    path = study_files(tmp_path, slices=1)[0]
    header = pydicom.dcmread(path)
    entity = pynetdicom.AE("MEDPANOPTIC")
    entity.add_requested_context(header.SOPClassUID, header.file_meta.TransferSyntaxUID)
    with receiver(tmp_path, certificates["here"]) as (server, arrived):
        association = entity.associate(
            "127.0.0.1", server.port, ae_title="MEDPANOPTIC", tls_args=(context, "127.0.0.1")
        )
        assert association.is_established
        assert association.send_c_store(header).Status == 0
        assert association.dul.socket.socket.version() in {"TLSv1.2", "TLSv1.3"}
        association.release()
        wait_for(lambda: list(arrived.glob("*.dcm")))


def test_files_that_are_no_certificates_are_named(tmp_path, certificates):
    here, client = certificates["here"], certificates["client"]
    (tmp_path / "text").write_text("no certificate")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", str(here.key), "-aes256", "-passout", "pass:x", "-out", str(locked)],
        check=True,
        capture_output=True,
    )
    for tls in (
        Tls(here.certificate, client.key),
        Tls(here.certificate, locked),
        Tls(here.certificate, tmp_path / "gone"),
        Tls(here.certificate, here.key, tmp_path / "text"),
        Tls(here.certificate),
    ):
        with pytest.raises(BatchError, match="TLS-FILES"):
            server_context(tls)
        with pytest.raises(BatchError, match="TLS-FILES"):
            client_context(tls)
    with pytest.raises(BatchError, match="TLS-FILES"):
        server_context(Tls())


def test_the_log_says_that_tls_failed_and_not_what_came(tmp_path, certificates):
    from medpanoptic.batch.log import log_file

    with log_file(tmp_path / "log"), receiver(tmp_path, certificates["here"]) as (server, _):
        server._entity.acse_timeout = 0.5  # after which pynetdicom lets an association go that never began
        stranger = socket.create_connection(("127.0.0.1", server.port))
        stranger.sendall(b"ZZPLANTED" * 100)
        wait_for((tmp_path / "log").exists)
        stranger.close()
        wait_for(lambda: not server._entity.active_associations)
    (line,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert line["event"] == "TLS failed"
    assert "ZZPLANTED" not in json.dumps(line)
