"""Studies to send, and a plain sender that is not ours."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pynetdicom
from pydicom.dataset import Dataset
from pynetdicom.sop_class import Verification
from tiny_batch import write_study


def study_files(folder: Path, number: int = 1, slices: int = 4, **tags) -> list[Path]:
    return sorted(write_study(folder / f"study{number}", number, (slices, 16, 16), **tags).glob("*.dcm"))


def associate(port: int, files=(), ae_title: str = "SCANNER", called: str = "MEDPANOPTIC"):
    entity = pynetdicom.AE(ae_title)
    entity.acse_timeout = entity.dimse_timeout = 10
    entity.add_requested_context(Verification)
    for path in files:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        pair = (header.SOPClassUID, header.file_meta.TransferSyntaxUID)
        if not any(pair == (c.abstract_syntax, c.transfer_syntax[0]) for c in entity.requested_contexts):
            entity.add_requested_context(*pair)
    return entity.associate("127.0.0.1", port, ae_title=called)


def store(port: int, files, **names) -> list[int | None]:
    """C-STORE files (or data sets); return the statuses, None where no answer came."""
    paths = [path for path in files if not isinstance(path, Dataset)]
    association = associate(port, paths, **names)
    assert association.is_established
    statuses = []
    try:
        for item in files:
            dataset = item if isinstance(item, Dataset) else pydicom.dcmread(item)
            if not association.is_established:
                return [*statuses, None]
            statuses.append(association.send_c_store(dataset).get("Status"))
    finally:
        if association.is_established:
            association.release()
    return statuses
