"""Signing and versions: what lies on the disk, what carries on, and that changes are noticed."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from tiny_case import Clock, open_case, tiny_result

from medpanoptic.errors import ReviewError, WriteError
from medpanoptic.io import read_result, write_result
from medpanoptic.review import ReviewSession, check_signed, find_unsaved, sign, signed_versions, stroke


def read_all(session):
    for lesion in session.things:
        if session.row(lesion).segment.verdict != "rejected":
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


def test_what_a_version_rejected_can_be_brought_back_in_a_later_one(case):
    session = open_case(case)
    read_all(session)
    session.reject(5, "vessel")
    session.reject(4)
    session.paint(3, stroke([(5, 6, 9)], 2.0, session.affine, session.ids.shape))  # a rejected lesion gives way
    voxels = {i: session.ids == i for i in (4, 5)}
    uids = {i: session.row(i).segment.tracking_uid for i in session.things}
    folder = sign(session)
    assert [s.id for s in read_result(folder).things] == [3]
    for version in (2, 3):  # also where the version between left it as it was
        session = open_case(case)
        assert session.version == version
        assert session.row(5).segment.verdict == "rejected"
        assert session.row(5).note == "vessel"
        assert all(np.array_equal(session.ids == i, where) for i, where in voxels.items())
        if version == 2:
            sign(session)
    session.accept(5)
    session.close()
    session = open_case(case)  # the edit itself goes on
    folder = sign(session)
    signed = read_result(folder)
    assert {s.id: s.verdict for s in signed.things} == {3: "accepted", 5: "accepted"}
    assert np.array_equal(signed.ids == 5, voxels[5])
    assert {s.id: s.tracking_uid for s in signed.things} == {i: uids[i] for i in (3, 5)}
    assert listed(folder)[4] == ("rejected", "", "1")
    assert open_case(case).row(4).segment.verdict == "rejected"


def test_a_rejected_lesion_that_covers_its_tissue_whole_comes_back(case):
    session = open_case(case)
    session.add(stroke([(6, 8, 9)], 40.0, session.affine, session.ids.shape), 3)
    for lesion in session.things:
        session.reject(lesion)
    ids = session.ids.copy()
    sign(session)
    again = open_case(case)
    assert np.array_equal(again.ids, ids)
    assert not again.freeze().things


def test_signing_tells_how_far_it_is(case):
    session = open_case(case)
    read_all(session)
    told = []
    sign(session, formats=["csv", "png"], on_step=lambda part, name: told.append((part, name)))
    assert [name for _, name in told] == ["result", "json", "nifti", "csv", "png", "list", "hashes", "signed"]
    parts = [part for part, _ in told]
    assert parts == sorted(parts)
    assert (parts[0], parts[-1]) == (0, 1)


def test_edits_while_the_files_are_written_are_refused_and_in_no_file(case):
    session = open_case(case)
    read_all(session)
    edits, refused = len(session.edits), []

    def meddle(part, step):
        if step == "signed":
            return
        actions = (
            lambda: session.reject(3),
            lambda: session.paint(4, stroke([[8, 8, 8]], 3.0, session.affine, session.ids.shape)),
            session.undo,
            lambda: session.set_note(3, "too late"),
        )
        for action in actions:
            with pytest.raises(ReviewError, match="REVIEW-BUSY"):
                action()
            refused.append(step)

    folder = sign(session, on_step=meddle)
    assert {"result", "list", "hashes"} <= set(refused)
    assert len(session.edits) == edits
    assert np.array_equal(read_result(folder).ids, session.ids)
    assert check_signed(folder)["version"] == 1
    assert "too late" not in (folder / "lesions.csv").read_text("utf-8")


def test_after_signing_failed_the_review_goes_on(case, monkeypatch):
    session = open_case(case)
    read_all(session)

    def fail(*args, **more):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("medpanoptic.review.signing.write_result", fail)
        with pytest.raises(WriteError, match="No space left"):
            sign(session)
    assert session.reject(3) is not None
    assert sign(session).name == "v1"
