"""Peers that drop, stall and refuse: what can succeed is tried again, what cannot is said, nothing is lost."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pydicom
import pytest
from bad_peers import Clock, dicom_peer, socket_peer, web_peer
from peers import study_files

from medpanoptic.batch.outputs import write_marker
from medpanoptic.cli import main
from medpanoptic.errors import BatchError
from medpanoptic.pacs.outbox import Outbox
from medpanoptic.pacs.parcels import Backoff, http_reply
from medpanoptic.pacs.sender import Courier, choose_peer, send

MARK = {
    "kind": "dicom", "state": "done", "fingerprint": "", "input_digest": "", "model_hash": "", "parameter_hash": "",
    "things": 1, "fallback": "",
}  # fmt: skip
FAST = Backoff(attempts=3, first_s=1, longest_s=8)


def result(out: Path, files, study: str = "a" * 20) -> list[str]:
    """Put DICOM files into a result folder of a batch; return their UIDs by name."""
    folder = out / "results" / study
    folder.mkdir(parents=True)
    for number, path in enumerate(files):
        (folder / f"seg{number}.dcm").write_bytes(Path(path).read_bytes())
    (folder / "segments.json").write_text("{}")
    write_marker(folder, {**MARK, "study": study})
    return [pydicom.dcmread(path).SOPInstanceUID for path in files]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def uids(tmp_path, out):
    return result(out, study_files(tmp_path, slices=3))


@pytest.fixture
def courier(out):
    """Return a function: deliver all to a peer with a clock of its own; give (code, rows, clock)."""

    def work(to=None, stow=None, clock=None, backoff=FAST, timeout_s=10, again=False):
        clock = clock or Clock()
        name, deliver = choose_peer(to, stow, "MEDPANOPTIC", timeout_s)
        outbox = Outbox(out / "outbox.sqlite", name, now=clock.now)
        for folder in (out / "results").iterdir():
            marker = json.loads((folder / "batch.json").read_text())
            outputs = {k: v for k, v in marker["outputs"].items() if k.endswith(".dcm")}
            outbox.plan(folder.name, outputs, again)
        code = Courier(
            out / "results", outbox, deliver, backoff, now=clock.now, sleep=clock.sleep, random=Random(0)
        ).work()
        outbox.close()
        with closing(sqlite3.connect(out / "outbox.sqlite")) as reader:
            reader.row_factory = sqlite3.Row
            rows = reader.execute("SELECT * FROM objects ORDER BY study, path").fetchall()
        return code, rows, clock

    return work


def told(rows):
    return [(row["state"], row["code"], row["status"], row["attempts"]) for row in rows]


# ---- C-STORE


def test_each_object_gets_the_peers_own_status(courier, uids, outcome):
    script = [0x0000, 0xB006, 0xC001]
    with dicom_peer(script) as (port, taken):
        code, rows, clock = courier(f"127.0.0.1:{port}/PACS")
        assert code == ""
        assert told(rows) == [
            ("delivered", "", "0x0000", 1),
            ("delivered", "", "0xB006", 1),
            ("refused", "PEER-REFUSED", "0xC001", 1),
        ]
        assert taken == uids[:2]
        # a second call sends nothing again; asked for, it tries what was refused
        assert told(courier(f"127.0.0.1:{port}/PACS")[1]) == told(rows)
        assert taken == uids[:2]
        assert told(courier(f"127.0.0.1:{port}/PACS", again=True)[1])[2] == ("delivered", "", "0x0000", 1)
        assert taken == uids
    assert clock.slept == 0
    outcome(
        "PACS refuses an object", "refused with its status, not sent again; the others are delivered", "status C001"
    )


def test_a_busy_peer_is_asked_again_later(courier, uids, outcome):
    with dicom_peer([0xA700, 0x0110]) as (port, taken):
        code, rows, clock = courier(f"127.0.0.1:{port}/PACS")
    assert code == ""
    assert [(row["state"], row["attempts"]) for row in rows] == [("delivered", 2), ("delivered", 2), ("delivered", 1)]
    assert sorted(taken) == sorted(uids)
    assert 0.5 <= clock.slept <= 2
    outcome("PACS busy", "sent again after growing pauses, then delivered", "status A700 and 0110")


def test_a_cut_in_the_middle_costs_only_the_object_under_way(courier, uids, outcome):
    with dicom_peer([0x0000, "drop"]) as (port, taken):
        code, rows, _ = courier(f"127.0.0.1:{port}/PACS")
    assert code == ""
    assert [(row["state"], row["attempts"]) for row in rows] == [("delivered", 1), ("delivered", 2), ("delivered", 1)]
    assert sorted(taken) == sorted(uids)
    outcome("PACS cuts the connection", "only the object under way is sent again", "a dropped socket")


def test_no_answer_in_time_is_a_cut(courier, uids, outcome):
    with dicom_peer(["stall"]) as (port, taken):
        _, rows, _ = courier(f"127.0.0.1:{port}/PACS", timeout_s=3)
    assert [(row["state"], row["attempts"]) for row in rows] == [("delivered", 2), ("delivered", 1), ("delivered", 1)]
    assert sorted(taken) == sorted(uids)
    outcome("PACS stalls", "no answer in --timeout: sent again, one object at the PACS", "a server that waits")


@pytest.mark.parametrize("stall", [False, True], ids=["closes", "says nothing"])
def test_a_peer_that_gives_no_association_is_given_up_by_name(courier, uids, stall):
    with socket_peer(stall) as port:
        code, rows, clock = courier(f"127.0.0.1:{port}/PACS", timeout_s=0.2)
    assert code == ""
    assert told(rows) == [("given-up", "PEER-UNREACHABLE", "no association", 3)] * 3
    assert clock.slept >= 0.5 + 1  # half of 1 s and 2 s at least


def test_a_title_that_is_not_known_there_ends_the_run_and_loses_nothing(courier, uids):
    with dicom_peer([], reject=(1, 1, 3)) as (port, _):
        code, rows, clock = courier(f"127.0.0.1:{port}/PACS")
    assert code == "PEER-REJECTED"
    assert told(rows)[0] == ("queued", "PEER-REJECTED", "rejected 1/1/3", 0)
    assert {row["state"] for row in rows} == {"queued"}
    assert clock.slept == 0
    with dicom_peer([]) as (port, _):
        assert courier(f"127.0.0.1:{port}/PACS")[0] == ""


def test_a_peer_that_is_full_now_is_asked_again(courier, uids):
    with dicom_peer([], reject=(2, 3, 2)) as (port, _):
        _, rows, _ = courier(f"127.0.0.1:{port}/PACS")
    assert told(rows) == [("given-up", "PEER-BUSY", "rejected 2/3/2", 3)] * 3


def test_a_kind_of_object_that_the_peer_does_not_know_is_refused(courier, tmp_path, out):
    path = study_files(tmp_path, slices=1)[0]
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.999"
    dataset.save_as(path)
    result(out, [path])
    with dicom_peer([]) as (port, _):
        _, rows, _ = courier(f"127.0.0.1:{port}/PACS")
    assert told(rows) == [("refused", "PEER-CONTEXT", "no presentation context", 1)]


def test_one_dead_peer_is_not_asked_for_every_study(courier, tmp_path, out):
    for number in range(20):
        result(out, study_files(tmp_path, number, slices=1), study=f"{number:020d}")
    asked = []

    def deliver(parcels):
        asked.append(clock.now())
        return ((parcel, http_reply(503)) for parcel in parcels)

    clock = Clock()
    outbox = Outbox(out / "outbox.sqlite", "peer", now=clock.now)
    for folder in (out / "results").iterdir():
        outbox.plan(folder.name, json.loads((folder / "batch.json").read_text())["outputs"])
    stop = lambda: clock.slept > 60  # noqa: E731
    courier = Courier(out / "results", outbox, deliver, FAST, now=clock.now, sleep=clock.sleep, stop=stop)
    assert courier.work() == "STOPPED"
    # pauses grow to 4-8 s for the peer as a whole
    assert len(asked) <= 20


# ---- STOW-RS


def test_503_then_200(courier, uids):
    with web_peer([(503, {"Retry-After": "5"}, {})]) as (root, seen):
        code, rows, clock = courier(stow=root)
    assert code == ""
    assert told(rows) == [("delivered", "", "HTTP 200", 2)] * 3
    assert clock.slept >= 5
    assert [request["path"] for request in seen] == ["/dicom-web/studies"] * 2
    assert seen[0]["body"].count(b"DICM") == 3


def sequence(tag, items):
    return {tag: {"vr": "SQ", "Value": [{k: {"vr": "UI", "Value": [v]} for k, v in item.items()} for item in items]}}


def test_409_tells_of_each_object(courier, uids):
    failed = [{"00081155": uids[0], "00081197": 0xA700}, {"00081155": uids[1], "00081197": 0xC122}]
    stored = [{"00081155": uids[2], "00081196": 0xB000}]
    body = {**sequence("00081198", failed), **sequence("00081199", stored)}
    with web_peer([(409, {}, body)]) as (root, seen):
        _, rows, _ = courier(stow=root)
        assert [request["body"].count(b"DICM") for request in seen] == [3, 1]
    assert told(rows) == [
        ("delivered", "", "HTTP 200", 2),
        ("refused", "PEER-REFUSED", "HTTP 409 0xC122", 1),
        ("delivered", "", "HTTP 409 0xB000", 1),
    ]


def test_202_with_a_failure_is_not_a_success(courier, uids):
    body = sequence("00081198", [{"00081155": uids[1], "00081197": 0x0110}])
    with web_peer([(202, {}, body)]) as (root, _):
        _, rows, _ = courier(stow=root)
    assert [(row["state"], row["attempts"]) for row in rows] == [("delivered", 1), ("delivered", 2), ("delivered", 1)]


def test_an_object_that_spoils_a_request_is_found(courier, uids):
    def judge(request):
        return (400, {}, {}) if uids[1].encode() in request["body"] else (200, {}, {})

    with web_peer([judge] * 4) as (root, _):
        _, rows, _ = courier(stow=root)
    assert [row["state"] for row in rows] == ["delivered", "refused", "delivered"]
    assert rows[1]["status"] == "HTTP 400"


@pytest.mark.parametrize(
    ("step", "code"),
    [
        ((401, {}, {}), "PEER-LOGIN"),
        ((404, {}, {}), "PEER-ADDRESS"),
        ((307, {"Location": "http://elsewhere.example/studies"}, {}), "PEER-REDIRECT"),
    ],
)
def test_what_somebody_must_mend_ends_the_run(courier, uids, step, code):
    with web_peer([step]) as (root, seen):
        assert courier(stow=root)[0] == code
        assert len(seen) == 1
        ended, rows, _ = courier(stow=root)
    assert ended == ""
    assert {row["state"] for row in rows} == {"delivered"}


@pytest.mark.parametrize("step", ["drop", "stall"])
def test_a_cut_request_is_sent_again(courier, uids, step):
    with web_peer([step]) as (root, _):
        _, rows, _ = courier(stow=root, timeout_s=3)
    assert told(rows) == [("delivered", "", "HTTP 200", 2)] * 3


# ---- the outbox


def test_a_restart_goes_on_where_it_was(courier, uids, out):
    with dicom_peer([0x0000, 0xA700, 0xA700]) as (port, taken):
        to, clock = f"127.0.0.1:{port}/PACS", Clock()
        name, deliver = choose_peer(to, None, "MEDPANOPTIC", 0.5)
        outbox = Outbox(out / "outbox.sqlite", name, now=clock.now)
        outputs = json.loads((out / "results" / ("a" * 20) / "batch.json").read_text())["outputs"]
        outbox.plan("a" * 20, {k: v for k, v in outputs.items() if k.endswith(".dcm")})
        stop = lambda: len(taken) > 0  # noqa: E731
        assert Courier(out / "results", outbox, deliver, FAST, now=clock.now, stop=stop).work() == "STOPPED"
        outbox.close()
        code, rows, _ = courier(to, clock=clock)
        assert code == ""
        assert {row["state"] for row in rows} == {"delivered"}
        assert sorted(taken) == sorted(uids)


def test_a_clock_that_was_set_back_delays_nothing(courier, uids):
    with dicom_peer([0xA700] * 3) as (port, _):
        ahead = Clock(1e9)
        to = f"127.0.0.1:{port}/PACS"
        courier(to, clock=ahead, backoff=Backoff(attempts=1))
        code, rows, clock = courier(to, clock=Clock(5.0), again=True)
    assert code == ""
    assert {row["state"] for row in rows} == {"delivered"}
    assert clock.slept == 0


def test_a_newer_result_takes_the_place_of_what_was_not_delivered(courier, uids, out, tmp_path):
    with dicom_peer([0xC000] * 3) as (port, taken):
        to = f"127.0.0.1:{port}/PACS"
        courier(to)
        (out / "results" / ("a" * 20)).rename(tmp_path / "old")
        new = result(out, study_files(tmp_path, 2, slices=1))
        _, rows, _ = courier(to)
    assert sorted(row["state"] for row in rows) == ["delivered", "replaced", "replaced", "replaced"]
    assert taken == new


def test_a_file_that_is_not_what_was_promised_is_not_sent(courier, uids, out):
    (out / "results" / ("a" * 20) / "seg1.dcm").write_bytes(b"torn")
    with dicom_peer([]) as (port, taken):
        _, rows, _ = courier(f"127.0.0.1:{port}/PACS")
    assert [row["state"] for row in rows] == ["delivered", "replaced", "delivered"]
    assert len(taken) == 2


def test_a_damaged_outbox_is_named(out, uids):
    (out / "outbox.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(BatchError, match="OUTBOX-DAMAGED"):
        send(out, to="127.0.0.1:1/PACS")


# ---- the command


def test_the_command_says_what_became_of_them(out, uids, capsys):
    with dicom_peer([0x0000, 0xC000]) as (port, _), pytest.raises(SystemExit) as ended:
        main(["send", str(out), "--to", f"127.0.0.1:{port}/PACS"])
    assert ended.value.code == 3
    said = capsys.readouterr()
    assert said.out == "2 delivered, 1 refused\n"
    assert "[PEER-REFUSED] the peer said: 0xC000" in said.err
    kept = said.out + said.err + (out / "send.log").read_text() + (out / "outbox.sqlite").read_bytes().decode("latin-1")
    assert not [uid for uid in uids if uid in kept]
    assert "Secret" not in kept
