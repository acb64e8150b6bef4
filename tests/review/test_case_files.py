"""Journal, recovery after a kill, signing and versions: what lies on disk, and what happens when it is damaged."""

import csv
import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_case import Clock, tiny_result, tiny_volume

from medpanoptic.errors import ReviewError, WriteError
from medpanoptic.io import read_result, write_result
from medpanoptic.review import ReviewSession, check_signed, find_unsaved, sign, signed_versions, stroke


@pytest.fixture
def case(tmp_path):
    folder = tmp_path / "case"
    write_result(tiny_result(), folder, formats=["csv"])
    return folder


def open_case(case, **options):
    return ReviewSession.open(case, tiny_volume(tiny_result()), reader="A. Reader", clock=Clock(), **options)


def lines(case):
    return (case / "review" / "journal.jsonl").read_text("utf-8").splitlines()


def work(session):
    """Some edits of every kind, with undo and redo among them."""
    session.focus(3)
    session.accept(3)
    session.paint(4, stroke([(5, 2, 14)], 3.0, session.affine, session.ids.shape))
    session.take_in(0)
    session.merge([3, 4])
    session.undo()
    session.undo()
    session.redo()
    session.reject(5, "node of normal size")


def state(session):
    return session.ids.tobytes(), dict(session.live.rows), len(session.edits)


# ---- opening and going on


def test_looking_writes_nothing_and_the_first_edit_does(case):
    session = open_case(case)
    session.rows()
    session.measures(3)
    session.close()
    assert not (case / "review").exists()
    assert find_unsaved(case) is None
    session.accept(3)
    assert len(lines(case)) == 2


def test_a_review_left_unsigned_goes_on_byte_for_byte_with_its_undo(case):
    first = open_case(case)
    work(first)
    first.close()
    waiting = find_unsaved(case)
    assert (waiting.reader, waiting.version, waiting.edits) == ("A. Reader", 1, 8)
    second = open_case(case)
    assert state(second) == state(first)
    while first.undo():
        pass
    third = open_case(case)
    assert third.ids.tobytes() == tiny_result().ids.tobytes()
    assert third.redo()


def test_discarding_starts_anew_but_the_journal_keeps_what_was_done(case):
    work(open_case(case))
    before = len(lines(case))
    session = open_case(case, unsaved="discard")
    assert session.ids.tobytes() == tiny_result().ids.tobytes()
    assert len(lines(case)) == before + 1
    assert find_unsaved(case) is None
    session.accept(3)
    assert find_unsaved(case).edits == 1
    assert open_case(case).row(3).segment.verdict == "accepted"


def test_the_journal_tells_who_what_when_and_how_long_but_no_path_and_no_uid_of_the_source(case):
    session = open_case(case)
    session.focus(3)
    session.accept(3, "clear")
    entries = [json.loads(line) for line in lines(case)]
    assert [e["action"] for e in entries] == ["begin", "accepted"]
    done = entries[1]
    assert (done["reader"], done["segment"], done["seconds"]) == ("A. Reader", 3, 1.0)
    assert done["time"].startswith("2026-01-02T03:04")
    assert done["previous"] == entries[0]["hash"]
    assert str(case) not in "".join(lines(case))


def test_an_edit_that_cannot_be_written_is_not_made(case):
    session = open_case(case)
    session.accept(3)
    (case / "review" / "journal.jsonl").unlink()
    (case / "review" / "journal.jsonl").mkdir()
    before = state(session)
    with pytest.raises(WriteError, match="WRITE-OS"):
        session.accept(4)
    assert state(session) == before


def test_a_second_program_on_the_same_case_is_noticed(case):
    first, second = open_case(case), open_case(case)
    first.accept(3)
    with pytest.raises(ReviewError, match="REVIEW-BUSY"):
        second.accept(4)


def test_a_review_needs_a_reader_and_the_same_image_and_result(case, tmp_path):
    with pytest.raises(ReviewError, match="REVIEW-READER"):
        ReviewSession.open(case, reader=" ")
    other = tiny_volume(tiny_result((12, 16, 20)))
    with pytest.raises(ReviewError, match="REVIEW-IMAGE"):
        ReviewSession.open(case, other, reader="A. Reader")
    open_case(case).accept(3)
    changed = tiny_result()
    changed.ids[0, 0, 0] = 3
    write_result(changed, case, formats=["csv"])
    with pytest.raises(ReviewError, match="REVIEW-BASE"):
        open_case(case)


# ---- damage


def test_every_cut_in_the_last_line_is_survived_and_said(case):
    session = open_case(case)
    session.accept(3)
    session.accept(4)
    before = state(session)
    whole = (case / "review" / "journal.jsonl").read_bytes()
    session.paint(3, stroke([(5, 2, 4)], 3.0, session.affine, session.ids.shape))
    more = (case / "review" / "journal.jsonl").read_bytes()
    for cut in [*range(len(whole) + 1, len(more), 97), len(more) - 1]:
        copy = case.parent / f"cut{cut}"
        shutil.copytree(case, copy)
        (copy / "review" / "journal.jsonl").write_bytes(more[:cut])
        again = open_case(copy)
        assert state(again) == before
        assert json.loads(lines(copy)[-1])["action"] == "recovered"
        assert json.loads(lines(copy)[-1])["lost_bytes"] == cut - len(whole)


def test_damage_inside_is_refused_by_line(case):
    work(open_case(case))
    path = case / "review" / "journal.jsonl"
    text = path.read_text("utf-8")
    changed = text.splitlines()
    changed[2] = changed[2].replace("A. Reader", "B. Reader")
    for damaged in ("\n".join(changed) + "\n", text.replace("\n", "\n\0", 1), "\n".join([*changed[:3], *changed[4:]])):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(ReviewError, match="JOURNAL-DAMAGED"):
            open_case(case)
        with pytest.raises(ReviewError, match="JOURNAL-DAMAGED"):
            find_unsaved(case)


# ---- a killed program

CHILD = """
import random, sys
sys.path.insert(0, sys.argv[1])
from test_case_files import random_edit, open_case
from pathlib import Path
session = open_case(Path(sys.argv[2]))
draw = random.Random(int(sys.argv[3]))
while True:
    random_edit(session, draw)
    print(len(session.journal.lines), flush=True)
"""


def random_edit(session, draw):
    """One edit drawn from a seeded generator: the same draws make the same review."""
    point = [draw.randrange(n) for n in session.ids.shape]
    name = draw.choice(["paint", "erase", "accept", "reject", "undo", "redo", "merge", "add"])
    lesion = draw.choice(session.things or [3])
    region = stroke([point], draw.uniform(0.5, 4), session.affine, session.ids.shape)
    try:
        if name in ("undo", "redo"):
            getattr(session, name)()
        elif name in ("paint", "erase"):
            getattr(session, name)(lesion, region)
        elif name == "merge":
            session.merge([lesion, draw.choice(session.things)])
        elif name == "add":
            session.add(region, 3)
        else:
            getattr(session, name)(lesion)
    except ReviewError:
        pass


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_program_loses_nothing(case, seed):
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(case), str(seed)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = 0
    enough = random.Random(seed).randrange(5, 120)
    while said < enough:
        said = int(child.stdout.readline())
    time.sleep(random.Random(seed).uniform(0, 0.02))
    child.kill()  # SIGKILL: no handler, no clean-up
    said = max([said, *(int(line) for line in child.communicate()[0].split() if line)])
    recovered = open_case(case)
    kept = [line for line in recovered.journal.lines if line["action"] != "recovered"]
    assert len(kept) >= said
    # the same draws in a program that nobody kills
    twin = case.parent / "twin"
    write_result(tiny_result(), twin, formats=["csv"])
    undisturbed = open_case(twin)
    draw = random.Random(seed)
    while len(undisturbed.journal.lines) < len(kept):
        random_edit(undisturbed, draw)
    assert state(recovered) == state(undisturbed)
    assert [line["hash"] for line in kept] == [line["hash"] for line in undisturbed.journal.lines]


# ---- signing


def read_all(session):
    for lesion in session.things:
        session.accept(lesion)


def test_signing_needs_every_lesion_read_or_leave_not_to(case):
    session = open_case(case)
    session.accept(3)
    with pytest.raises(ReviewError, match=r"REVIEW-UNREAD.*2 lesions"):
        sign(session)
    assert not signed_versions(case)
    assert sign(session, allow_unread=True).name == "v1"


def test_a_signed_version_holds_the_review_and_is_locked(case):
    session = open_case(case)
    read_all(session)
    session.reject(5, "vessel")
    folder = sign(session, image=case.parent / "image.nii.gz")
    result = read_result(folder)
    assert {s.id: s.verdict for s in result.things} == {3: "accepted", 4: "accepted"}
    assert result.provenance.parameters["review_version"] == 1
    assert result.provenance.parameters["reader"] == "A. Reader"
    assert (result.ids[session.ids == 5] == 1).all()
    rows = (folder / "lesions.csv").read_text("utf-8").splitlines()
    assert len(rows) == 4
    assert "rejected" in rows[3]
    assert "vessel" in rows[3]
    assert {p.name for p in folder.iterdir()} >= {"overlay.png", "segments.csv", "journal.jsonl", "signature.json"}
    assert check_signed(folder)["version"] == 1
    assert find_unsaved(case) is None
    with pytest.raises(ReviewError, match="REVIEW-SIGNED"):
        session.accept(3)
    with pytest.raises(ReviewError, match="REVIEW-SIGNED"):
        sign(session)
    assert read_result(case).ids.tobytes() == tiny_result().ids.tobytes()


def test_opening_again_starts_the_next_version_from_what_was_signed(case):
    first = open_case(case)
    read_all(first)
    first.delete(5)
    uids = {i: first.row(i).segment.tracking_uid for i in first.things}
    sign(first)
    second = open_case(case)
    assert second.version == 2
    assert second.things == [3, 4]
    assert second.model.ids.tobytes() == tiny_result().ids.tobytes()
    second.merge([3, 4])
    folder = sign(second)
    assert [p.name for p in signed_versions(case)] == ["v1", "v2"]
    (segment,) = read_result(folder).things
    assert segment.tracking_uid == uids[3]
    assert read_result(folder).provenance.parameters["review_version"] == 2
    # one chain through both
    assert (case / "review" / "journal.jsonl").read_bytes() == (folder / "journal.jsonl").read_bytes()


def listed(folder):
    """{id: (status, note, version)} of lesions.csv."""
    with (folder / "lesions.csv").open(encoding="utf-8", newline="") as file:
        return {int(r["id"]): (r["status"], r["note"], r["version"]) for r in csv.DictReader(file)}


def test_a_later_version_still_lists_what_earlier_ones_rejected(case):
    for lesion, why in ((5, "vessel"), (4, "artefact"), (None, "")):
        session = open_case(case)
        read_all(session)
        if lesion:
            session.reject(lesion, why)
        folder = sign(session)
    assert folder.name == "v3"
    assert listed(folder) == {
        3: ("accepted", "", "3"),
        4: ("rejected", "artefact", "2"),
        5: ("rejected", "vessel", "1"),
    }


def test_an_id_of_an_earlier_version_is_never_used_again(case):
    session = open_case(case)
    read_all(session)
    made = session.take_in(0).segment
    session.undo()
    session.reject(5)
    sign(session)
    session = open_case(case)
    assert session.take_in(0).segment > made > 5


def test_words_diameters_and_marks_carry_on_into_the_next_version(case):
    line = ((0.0, 0.0, 0.0), (0.0, 30.0, 0.0))
    session = open_case(case)
    read_all(session)
    session.set_note(3, "as before")
    session.set_axes(3, line, None)
    session.set_recist(4, organ="liver", is_target=True)
    session.set_note(4, "taken back")
    session.undo()
    session.take_in(0)
    rows = {i: session.row(i) for i in session.things}
    sign(session)
    open_case(case).set_note(3, "never signed")
    session = open_case(case, unsaved="discard")
    assert {i: session.row(i) for i in session.things} == rows
    with pytest.raises(ReviewError, match="REVIEW-DROPPED"):
        session.take_in(0)
    session.set_axes(3, None, None)
    sign(session)
    assert open_case(case).row(3) == replace(rows[3], long_axis=None)


def test_nothing_found_signs_too(tmp_path):
    empty = tiny_result()
    session = ReviewSession(empty, clock=Clock())
    for lesion in session.things:
        session.delete(lesion)
    write_result(session.freeze(), tmp_path / "case", formats=["csv"])
    review = open_case(tmp_path / "case")
    folder = sign(review)
    assert read_result(folder).things == ()
    assert check_signed(folder)["reader"] == "A. Reader"


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("panoptic.nii.gz", lambda p: p.write_bytes(p.read_bytes()[:-1] + b"x")),
        ("segments.json", lambda p: p.write_text(p.read_text().replace("accepted", "rejected"))),
        ("lesions.csv", lambda p: p.unlink()),
        ("extra.txt", lambda p: p.write_text("more")),
        ("signature.json", lambda p: p.write_text(p.read_text().replace("A. Reader", "B. Reader"))),
        ("signature.json", lambda p: p.write_text("{}")),
    ],
)
def test_tampering_with_a_signed_version_is_named(case, name, spoil):
    session = open_case(case)
    read_all(session)
    folder = sign(session)
    spoil(folder / name)
    with pytest.raises(ReviewError, match="REVIEW-TAMPERED"):
        open_case(case)


def test_a_signature_that_was_cut_off_before_its_line_is_finished_on_opening(case):
    session = open_case(case)
    read_all(session)
    before = (case / "review" / "journal.jsonl").read_bytes()
    sign(session)
    whole = (case / "review" / "journal.jsonl").read_bytes()
    (case / "review" / "journal.jsonl").write_bytes(before)  # killed right after v1 was in place
    assert find_unsaved(case) is None
    assert open_case(case).version == 2
    assert (case / "review" / "journal.jsonl").read_bytes() == whole


def test_a_signature_that_fails_leaves_the_review_open(case, monkeypatch):
    session = open_case(case)
    read_all(session)
    with pytest.raises(WriteError, match="FORMAT-UNKNOWN"):
        sign(session, formats=["no such format"])
    assert [p.name for p in (case / "review").iterdir()] == ["journal.jsonl"]
    session.reject(3)
    assert sign(session).name == "v1"


def test_two_readers_never_mint_the_same_tracking_uid(tmp_path):
    uids = set()
    for reader in ("A. Reader", "B. Reader"):
        write_result(tiny_result(), tmp_path / reader, formats=["csv"])
        session = ReviewSession.open(tmp_path / reader, reader=reader, clock=Clock())
        edit = session.add(stroke([(1, 1, 1)], 2, session.affine, session.ids.shape), 3)
        uids.add(session.row(edit.segment).segment.tracking_uid)
    assert len(uids) == 2
    assert np.all([u.startswith("2.25.") for u in uids])
