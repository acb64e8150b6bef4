"""The list of lesions as a file, before anything is signed."""

import csv

import pytest
from tiny_case import open_case

from medpanoptic.errors import WriteError
from medpanoptic.review import find_unsaved, save_lesions, sign, signed_versions


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return {int(row["id"]): row for row in csv.DictReader(file)}


def test_the_list_is_saved_at_any_time_with_what_was_measured(case, tmp_path):
    session = open_case(case)
    session.accept(3, "seen, before")
    session.reject(5)
    session.set_axes(4, ((0, 0, 0), (0, 30, 40)), None)
    path = save_lesions(session, tmp_path / "list.csv")
    rows = rows_of(path)
    assert [(i, r["status"], r["note"]) for i, r in rows.items()] == [
        (3, "accepted", "seen, before"),
        (4, "unread", ""),
        (5, "rejected", ""),
    ]
    assert float(rows[4]["long_axis_mm"]) == 50
    measures = session.measures(3)
    values = measures.intensities[0]
    for name in ("mean", "max", "peak"):
        assert float(rows[3][f"image_{name}_SUV"]) == pytest.approx(getattr(values, name))
    assert float(rows[3]["volume_mm3"]) == pytest.approx(measures.volume_mm3)
    assert {r["version"] for r in rows.values()} == {"not signed"}
    assert not signed_versions(case)
    assert find_unsaved(case).edits == 3  # saving is no edit
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["list.csv"]


def test_the_saved_list_is_that_of_the_signed_version(case, tmp_path):
    session = open_case(case)
    session.set_verdicts(session.things, "accepted")
    session.reject(5)
    folder = sign(session)
    saved = save_lesions(session, tmp_path / "list.csv")
    assert saved.read_bytes() == (folder / "lesions.csv").read_bytes()
    # a later version lists what the earlier one rejected, saved or signed
    second = open_case(case)
    second.delete(5)
    rows = rows_of(save_lesions(second, tmp_path / "list.csv"))
    assert (rows[5]["status"], rows[5]["version"]) == ("rejected", "1")
    assert rows[3]["version"] == "not signed"


def test_a_list_that_cannot_be_written_leaves_the_old_one(case, tmp_path, monkeypatch):
    session = open_case(case)
    path = save_lesions(session, tmp_path / "list.csv")
    before = path.read_bytes()
    with pytest.raises(WriteError, match=r"WRITE-OS.*list.csv"):
        save_lesions(session, tmp_path / "no folder" / "list.csv")

    def fail(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medpanoptic.review.lesions_csv.os.replace", fail)
    session.accept(3)
    with pytest.raises(WriteError, match="No space left"):
        save_lesions(session, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["list.csv"]
