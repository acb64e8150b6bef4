"""The journal on the disk: opening, going on, setting aside, and what happens when it is damaged."""

import json
import shutil

import pytest
from tiny_case import lines, open_case, state, tiny_result, tiny_volume

from medpanoptic.errors import ReviewError, WriteError
from medpanoptic.io import write_result
from medpanoptic.review import ReviewSession, find_unsaved, stroke


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
