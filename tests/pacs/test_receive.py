"""What arrives lies in folders with secret names, whole, once, and is held until the study is complete."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pydicom
import pytest
from peers import associate, store, study_files
from tiny_batch import study_uid, wait_for, write_study

from medpanoptic.batch.keys import load_key
from medpanoptic.batch.scan import scan_inputs
from medpanoptic.cli import main
from medpanoptic.errors import BatchError
from medpanoptic.pacs.inbox import HOLD, Inbox, InboxLimits, only_receiver
from medpanoptic.pacs.receiver import Receiver, check_titles

LIMITS = InboxLimits(object_mb=4, study_gb=1, min_free_mb=1)


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inbox(tmp_path, clock) -> Inbox:
    return Inbox(tmp_path / "in", load_key(tmp_path / "key"), quiet_s=60, limits=LIMITS, now=clock)


@pytest.fixture
def receiver(inbox):
    with Receiver(inbox, host="127.0.0.1", port=0, ae_title="MEDPANOPTIC", allow=["SCANNER"]) as server:
        yield server


def objects(inbox, number=1):
    return sorted((inbox.folder / inbox.handle(study_uid(number))).glob("*.dcm"))


def is_held(inbox, number=1):
    return (inbox.folder / inbox.handle(study_uid(number)) / HOLD).exists()


def taken_by_batch(inbox, key):
    index = scan_inputs([inbox.folder], key, inbox.folder / "none")
    return {handle: len(index.study(handle).files) for handle in index.handles()}


def test_objects_arrive_equal_under_names_that_say_nothing(receiver, inbox, tmp_path):
    files = study_files(tmp_path)
    assert store(receiver.port, files) == [0] * 4
    sent = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, files)}
    here = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, objects(inbox))}
    assert here == sent
    for path in objects(inbox):
        name = path.relative_to(inbox.folder).as_posix()
        assert len(name) == 20 + 1 + 20 + 4
        assert not any(value in name for d in sent.values() for value in (d.SOPInstanceUID, d.StudyInstanceUID))


def test_a_study_is_complete_when_nothing_comes_for_a_while(receiver, inbox, clock, tmp_path):
    files = study_files(tmp_path)
    store(receiver.port, files[:2])
    clock.seconds = 59
    store(receiver.port, files[2:])
    clock.seconds = 118
    assert inbox.release_quiet() == []
    assert is_held(inbox)
    clock.seconds = 119
    assert inbox.release_quiet() == [inbox.handle(study_uid(1))]
    assert not is_held(inbox)


def test_batch_takes_complete_studies_only_and_late_slices_hold_one_again(receiver, inbox, clock, tmp_path):
    key, files = load_key(tmp_path / "key"), study_files(tmp_path)
    store(receiver.port, files[:3])
    assert taken_by_batch(inbox, key) == {}
    clock.seconds = 60
    inbox.release_quiet()
    assert taken_by_batch(inbox, key) == {inbox.handle(study_uid(1)): 3}
    store(receiver.port, files[3:])
    assert taken_by_batch(inbox, key) == {}
    clock.seconds = 120
    inbox.release_quiet()
    assert taken_by_batch(inbox, key) == {inbox.handle(study_uid(1)): 4}


@pytest.mark.parametrize("told_by", ["option", "tag"])
def test_a_study_is_complete_with_its_last_expected_object(tmp_path, clock, told_by):
    tags = {"NumberOfStudyRelatedInstances": "4"} if told_by == "tag" else {}
    files = study_files(tmp_path, **tags)
    expect = 4 if told_by == "option" else None
    inbox = Inbox(tmp_path / "in", load_key(tmp_path / "key"), expect=expect, limits=LIMITS, now=clock)
    with Receiver(inbox, host="127.0.0.1", port=0, ae_title="MEDPANOPTIC", allow=["SCANNER"]) as server:
        store(server.port, files[:3])
        assert is_held(inbox)
        store(server.port, files[3:])
        assert not is_held(inbox)


def test_the_same_object_again_changes_nothing_and_other_bytes_are_kept_aside(receiver, inbox, clock, tmp_path):
    files = study_files(tmp_path)
    store(receiver.port, files)
    clock.seconds = 60
    inbox.release_quiet()
    before = {path: path.read_bytes() for path in objects(inbox)}
    assert store(receiver.port, files) == [0] * 4
    changed = pydicom.dcmread(files[0])
    changed.SeriesDescription = "other"
    changed.save_as(files[0])
    assert store(receiver.port, files[:1]) == [0xB000]
    assert {path: path.read_bytes() for path in objects(inbox)} == before
    assert not is_held(inbox)
    (aside,) = (inbox.folder / ".receive" / "aside").rglob("*.dcm")
    assert pydicom.dcmread(aside).SeriesDescription == "other"
    assert receiver.counts == {"new": 4, "duplicate": 4, "aside": 1, "refused": 0}
    # what was put aside is no study of a batch
    assert list(taken_by_batch(inbox, load_key(tmp_path / "key")).values()) == [4]


def test_a_new_program_finds_what_was_held(receiver, inbox, clock, tmp_path):
    store(receiver.port, study_files(tmp_path)[:2])
    (inbox.folder / ".receive" / "cut.part").write_bytes(b"half an object")
    again = Inbox(inbox.folder, load_key(tmp_path / "key"), quiet_s=60, now=clock)
    assert again.held == inbox.held
    assert not list(inbox.folder.rglob("*.part"))
    clock.seconds = 60
    assert len(again.release_quiet()) == 1


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        ({}, True),
        ({"ae_title": "STRANGER"}, False),
        ({"called": "ELSEWHERE"}, False),
    ],
    ids=["known", "unknown caller", "another called"],
)
def test_only_who_is_allowed_gets_in(receiver, names, allowed):
    association = associate(receiver.port, **names)
    assert association.is_established is allowed
    assert association.is_rejected is not allowed
    if allowed:
        assert association.send_c_echo().Status == 0
        association.release()


def test_nobody_gets_in_without_a_list(inbox):
    with Receiver(inbox, host="127.0.0.1", port=0, ae_title="MEDPANOPTIC", allow=[]) as server:
        assert associate(server.port).is_rejected


def test_what_cannot_be_taken_is_answered_by_the_fitting_status(tmp_path, clock):
    files = study_files(tmp_path)
    limits = InboxLimits(object_mb=1, study_gb=3000 / 2**30, min_free_mb=1)
    inbox = Inbox(tmp_path / "in", load_key(tmp_path / "key"), limits=limits, now=clock)
    with Receiver(inbox, host="127.0.0.1", port=0, ae_title="MEDPANOPTIC", allow=["SCANNER"]) as server:
        first = store(server.port, files)
        assert first[0] == 0
        assert first[-1] == 0xA700  # the study is full
        nowhere = pydicom.dcmread(files[0])
        del nowhere.StudyInstanceUID
        nowhere.save_as(tmp_path / "nowhere.dcm")
        assert store(server.port, [tmp_path / "nowhere.dcm"]) == [0xC000]
        large = pydicom.dcmread(write_study(tmp_path / "large", 2, (1, 1024, 1024)) / "2_000.dcm")
        large.save_as(tmp_path / "large.dcm")
        assert store(server.port, [tmp_path / "large.dcm"]) == [None]  # cut off
        assert server.counts["refused"] >= 3
    assert not list(inbox.folder.rglob("*.part"))


def test_a_full_disk_is_told_before_it_is_full(tmp_path):
    inbox = Inbox(tmp_path / "in", load_key(tmp_path / "key"), limits=InboxLimits(min_free_mb=2**40))
    with Receiver(inbox, host="127.0.0.1", port=0, ae_title="MEDPANOPTIC", allow=["SCANNER"]) as server:
        assert store(server.port, study_files(tmp_path)[:1]) == [0xA700]


def test_a_study_stays_held_until_what_there_was_no_room_for_has_come(tmp_path, clock):
    files, key = study_files(tmp_path), load_key(tmp_path / "key")
    inbox = Inbox(tmp_path / "in", key, quiet_s=60, limits=LIMITS, now=clock)
    with Receiver(inbox, host="127.0.0.1", port=0, ae_title="MEDPANOPTIC", allow=["SCANNER"]) as server:
        assert store(server.port, files[:3]) == [0] * 3
        inbox.limits = InboxLimits(min_free_mb=2**40)
        assert store(server.port, files[3:]) == [0xA700]
    clock.seconds = 1000
    assert inbox.release_quiet() == []
    # a new program, on a disk with room, knows it too
    again = Inbox(tmp_path / "in", key, quiet_s=60, limits=LIMITS, now=clock)
    clock.seconds = 2000
    assert again.release_quiet() == []
    with Receiver(again, host="127.0.0.1", port=0, ae_title="MEDPANOPTIC", allow=["SCANNER"]) as server:
        assert store(server.port, files[3:]) == [0]
    clock.seconds = 3000
    assert again.release_quiet() == [again.handle(study_uid(1))]


def test_one_program_fills_a_folder(tmp_path):
    with only_receiver(tmp_path), pytest.raises(BatchError, match="RECEIVE-RUNNING"), only_receiver(tmp_path):
        pass


@pytest.mark.parametrize("title", ["", " ", "A" * 17, "A\\B", "Ä"])
def test_titles_that_are_none(title):
    with pytest.raises(BatchError, match="AE-TITLE"):
        check_titles([title])


def test_a_taken_port_is_said(receiver, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["receive", str(tmp_path / "in2"), "--port", str(receiver.port), "--allow", "SCANNER"])
    assert "RECEIVE-PORT" in capsys.readouterr().err


def test_the_command_ends_cleanly_and_tells_nothing(tmp_path):
    files = study_files(tmp_path, PatientName="Qqsecret^Name", PatientID="Qqsecret")
    log = tmp_path / "in" / "receive.log"
    words = [str(tmp_path / "in"), "--port", "0", "--allow", "SCANNER", "--log-level", "debug", "--quiet", "0.5"]
    process = subprocess.Popen(
        [sys.executable, "-m", "medpanoptic", "receive", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        started = wait_for(lambda: log.is_file() and log.read_text(encoding="utf-8"), 60)
        port = json.loads(started.splitlines()[0])["port"]
        assert store(port, files) == [0] * 4
        wait_for(lambda: "study complete" in log.read_text(encoding="utf-8"))
        association = associate(port, files)
        process.send_signal(signal.SIGTERM if os.name != "nt" else signal.CTRL_BREAK_EVENT)
        time.sleep(0.5)
        # who is sending may end
        assert association.send_c_store(pydicom.dcmread(files[0])).Status == 0
        association.release()
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "4 objects, 1 duplicates, 0 kept aside, 0 refused; 1 studies complete, 0 held" in out.decode()
    said = out + err + log.read_bytes() + b"".join(str(p).encode() for p in Path(tmp_path / "in").rglob("*"))
    uids = [str(pydicom.dcmread(p)[name].value) for p in files for name in ("SOPInstanceUID", "StudyInstanceUID")]
    assert not [mark for mark in ("Qqsecret", "Secret", *uids) if mark.encode() in said]
