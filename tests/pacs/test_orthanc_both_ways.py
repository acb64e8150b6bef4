"""A real Orthanc sends to us, is asked by us, and takes what we deliver; a late slice leads to a new SEG there."""

from __future__ import annotations

import json
import urllib.request

import pydicom
import pytest
from bad_peers import web_peer
from orthanc_server import MISSING, is_there, running_orthanc
from peers import store, study_files
from tiny_batch import pack_tiny, study_uid

from medpanoptic.batch import run_batch
from medpanoptic.batch.keys import load_key
from medpanoptic.batch.ledger import Ledger
from medpanoptic.cli import main
from medpanoptic.errors import BatchError
from medpanoptic.pacs import fetch, send
from medpanoptic.pacs.inbox import Inbox, InboxLimits
from medpanoptic.pacs.parcels import Backoff
from medpanoptic.pacs.receiver import Receiver

web_client = pytest.importorskip("dicomweb_client.api", reason="dicomweb-client is not installed (extra: batch)")
LIMITS = InboxLimits(min_free_mb=1)
QUICK = Backoff(attempts=3, first_s=0.01, longest_s=0.02)
needs_orthanc = pytest.mark.skipif(not is_there(), reason=MISSING)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    with running_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


def rest(orthanc, path, body=None, method=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{orthanc.rest}{path}", data=data, method=method)
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.loads(response.read() or b"null")


def segs(orthanc, number):
    client = web_client.DICOMwebClient(orthanc.dicomweb)
    filters = {"StudyInstanceUID": study_uid(number), "Modality": "SEG"}
    return sorted(found["00080018"]["Value"][0] for found in client.search_for_instances(search_filters=filters))


@needs_orthanc
def test_from_a_pacs_through_a_batch_and_back_and_again_with_a_late_slice(orthanc, tmp_path):
    model = pack_tiny(tmp_path / "model")
    files = study_files(tmp_path, 11, slices=5)
    assert store(orthanc.dicom_port, files[:4], called=orthanc.aet) == [0] * 4
    key = load_key(tmp_path / "key")
    inbox = Inbox(tmp_path / "in", key, quiet_s=0, limits=LIMITS)
    handle = inbox.handle(study_uid(11))
    with Receiver(inbox, host="127.0.0.1", port=0, ae_title="MEDPANOPTIC", allow=[orthanc.aet]) as server:
        rest(orthanc, "/modalities/medpanoptic", ["MEDPANOPTIC", "127.0.0.1", server.port], "PUT")

        def push():
            # the whole study: the second time that is our SEG as well, which comes to nothing
            rest(orthanc, "/modalities/medpanoptic/store", rest(orthanc, "/studies"))
            inbox.release_quiet()

        push()
        assert server.counts["new"] == 4
        assert inbox.held == ()
        common = {"model": model, "workers": 1, "threads": 1, "formats": ["dicom-seg"], "key_file": tmp_path / "key"}
        assert run_batch([tmp_path / "in"], tmp_path / "out", **common).status == 0
        sent = send(tmp_path / "out", to=f"127.0.0.1:{orthanc.dicom_port}/{orthanc.aet}")
        assert (sent.status, sent.counts["delivered"]) == (0, 1)
        first = segs(orthanc, 11)
        assert first == [pydicom.dcmread(tmp_path / "out" / "results" / handle / "seg.dcm").SOPInstanceUID]

        # a late slice: the study runs again, the new SEG is another object
        assert store(orthanc.dicom_port, files[4:], called=orthanc.aet) == [0]
        push()
        assert server.counts == {"new": 6, "duplicate": 4, "aside": 0, "refused": 0}
    summary = run_batch([tmp_path / "in"], tmp_path / "out", resume=True, **common)
    assert (summary.status, summary.unchanged) == (0, 0)
    sent = send(tmp_path / "out", stow=orthanc.dicomweb)
    assert sent.status == 0
    second = segs(orthanc, 11)
    assert len(second) == 2
    assert set(first) < set(second)
    ledger = Ledger(tmp_path / "out" / "ledger.sqlite", read_only=True)
    delivered = json.loads(ledger.get(handle)["delivered"])
    ledger.close()
    assert delivered == {f"dicom://127.0.0.1:{orthanc.dicom_port}/{orthanc.aet}": [1, 1], orthanc.dicomweb: [1, 1]}


@needs_orthanc
def test_what_is_fetched_is_what_c_store_brings(orthanc, tmp_path):
    files = study_files(tmp_path, 12)
    store(orthanc.dicom_port, files, called=orthanc.aet)
    folder = tmp_path / "in"
    done = fetch(orthanc.dicomweb, folder, where={"StudyInstanceUID": study_uid(12)}, limits=LIMITS)
    assert (done.complete, done.new, done.failed) == (1, 4, [])
    inbox = Inbox(folder, load_key(folder / "receive.key"), limits=LIMITS)
    assert inbox.held == ()
    (study,) = [p for p in folder.iterdir() if p.is_dir() and p.name != ".receive"]
    sent = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, files)}
    here = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, study.glob("*.dcm"))}
    assert here == sent
    again = fetch(orthanc.dicomweb, folder, studies=[study_uid(12), "1.2.3.4"], limits=LIMITS)
    assert (again.complete, again.unchanged, again.status) == (0, 1, 3)
    assert again.failed[0][1] == "PEER-NO-STUDY"
    with Receiver(inbox, host="127.0.0.1", port=0, ae_title="MEDPANOPTIC", allow=["SCANNER"]) as server:
        store(server.port, files)
        assert server.counts["duplicate"] == 4


@needs_orthanc
def test_the_command_fetches_from_a_list(orthanc, tmp_path, capsys):
    store(orthanc.dicom_port, study_files(tmp_path, 13, PatientName="Qqsecret"), called=orthanc.aet)
    (tmp_path / "list").write_text(f"{study_uid(13)}\n")
    words = ["--studies", str(tmp_path / "list"), "--min-free-mb", "1", "--log-level", "debug"]
    with pytest.raises(SystemExit) as ended:
        main(["fetch", orthanc.dicomweb, str(tmp_path / "in"), *words])
    said = capsys.readouterr()
    assert ended.value.code == 0
    assert said.out == "1 studies complete (4 new objects), 0 were here\n"
    kept = said.out + said.err + (tmp_path / "in" / "receive.log").read_text()
    assert not [mark for mark in ("Qqsecret", study_uid(13)) if mark in kept]


def multipart(files):
    parts = b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + p.read_bytes() + b"\r\n" for p in files)
    return 200, {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}, parts + b"--x--\r\n"


def found(number, objects):
    study = {"0020000D": {"vr": "UI", "Value": [study_uid(number)]}, "00201208": {"vr": "IS", "Value": [objects]}}
    return 200, {"Content-Type": "application/dicom+json"}, [study]


def test_a_server_that_drops_and_refuses_is_asked_again(tmp_path):
    files = study_files(tmp_path)
    status, headers, whole = multipart(files)
    # no second page of the search; then no answer, one that ends in its third object, a whole one
    cut = (status, headers, whole[: len(whole) // 2])
    script = [(503, {}, {}), found(1, 4), (200, {}, []), (504, {}, {}), cut, (status, headers, whole)]
    with web_peer(script) as (root, _):
        done = fetch(root, tmp_path / "in", studies=[study_uid(1)], limits=LIMITS, backoff=QUICK)
    assert (done.complete, done.failed) == (1, [])
    assert done.new == 4


def test_a_study_that_stays_short_is_held(tmp_path):
    files = study_files(tmp_path)
    script = [found(1, 4), (200, {}, []), *[multipart(files[:3])] * 3]
    with web_peer(script) as (root, _):
        done = fetch(root, tmp_path / "in", studies=[study_uid(1)], limits=LIMITS, backoff=QUICK)
    assert [code for _, code, _ in done.failed] == ["PEER-SHORT"]
    assert done.status == 1
    assert Inbox(tmp_path / "in", load_key(tmp_path / "in" / "receive.key")).held == (done.failed[0][0],)


def test_a_search_that_leads_elsewhere_ends(tmp_path):
    with web_peer([]) as (other, seen), web_peer([(302, {"Location": f"{other}/studies"}, {})]) as (root, _):
        with pytest.raises(BatchError, match="PEER-REDIRECT") as caught:
            fetch(root, tmp_path / "in", studies=[study_uid(1)], backoff=QUICK)
        assert seen == []
        assert study_uid(1) not in str(caught.value)


@pytest.mark.parametrize("what", [{}, {"where": {"NoKeyword": "1"}}])
def test_it_must_be_said_what_to_fetch(tmp_path, what):
    with pytest.raises(BatchError, match="FETCH-WHAT"):
        fetch("http://127.0.0.1:1/x", tmp_path, **what)
