"""Run every case of the collection of bad inputs, each in a process of its own, and grade the outcomes.

    python benchmarks/bad_inputs.py [COLLECTION] [--only NAME ...]

COLLECTION is the folder with bad_inputs.tar.gz, manifest.json and grade.py (default ../shared/bad_inputs). The archive
is unpacked into a temporary folder; each case has its time and memory limits; what must not be read, written or run
is watched. Prints one line per case and the totals; exit status 1 unless every case is right or refused for its reason.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.machinery
import importlib.util
import json
import multiprocessing
import os
import shutil
import sys
import tarfile
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

GOOD = ("right", "refused")
# a fork server has the libraries loaded; Windows starts each child from nothing
PROCESSES = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")


def load_grade(collection: Path) -> Any:
    loader = importlib.machinery.SourceFileLoader("grade", str(collection / "grade.py"))
    grade = importlib.util.module_from_spec(importlib.util.spec_from_loader("grade", loader))
    loader.exec_module(grade)
    return grade


def grade_case(case: dict[str, Any], root: Path, grade: Any) -> tuple[str, str]:
    """Open one case as a user would; return the grade and what was said."""
    from medpanoptic.errors import MedpanopticError

    try:
        outcome, said = OPENERS[case["kind"]](case, root / case["path"], grade)
    except MedpanopticError as error:
        return grade.grade(case, error=error), str(error)
    words = [w for w in case.get("phi_words", []) if w in said]
    unsaid = [group for group in case.get("must_report", []) if not any(w.lower() in said.lower() for w in group)]
    needs_report = "ok_with_report" in case.get("also_accept", []) and not said
    return ("SILENT_WRONG" if words or unsaid or needs_report else outcome), said


def open_volume(case: dict[str, Any], path: Path, grade: Any) -> tuple[str, str]:
    from medpanoptic.io import read_volume

    volume = read_volume(path)
    return grade.grade(case, [(volume.array[0], volume.affine)]), "; ".join(volume.notes)


def open_labels(case: dict[str, Any], path: Path, grade: Any) -> tuple[str, str]:
    """Labels must count and name what their own file does, in the image's place."""
    import nibabel
    import numpy as np

    from medpanoptic.io import read_labels, read_volume

    image = read_volume(path / "image.nii.gz") if path.is_dir() else None
    file = path / "label.nii.gz" if path.is_dir() else path
    labels = read_labels(file, image)
    stored = nibabel.load(file)
    raw = np.asarray(stored.dataobj)
    same = dict(zip(*np.unique(raw, return_counts=True), strict=True)) == dict(
        zip(*np.unique(labels.array, return_counts=True), strict=True)
    )
    if raw.any():
        ours = labels.affine @ [*np.argwhere(labels.array[0]).mean(axis=0), 1]
        theirs = np.diag([-1, -1, 1, 1]) @ stored.affine @ [*np.argwhere(raw).mean(axis=0), 1]
        same = same and np.allclose(ours, theirs, atol=1e-2)
    right = case["expected"] == "ok" and same
    return ("right" if right else "SILENT_WRONG"), "; ".join(labels.notes)


def open_bundle(case: dict[str, Any], path: Path, grade: Any) -> tuple[str, str]:
    from medpanoptic.bundle import load_bundle

    load_bundle(path)
    return grade.grade(case, []), ""


def open_weights(case: dict[str, Any], path: Path, grade: Any) -> tuple[str, str]:
    from medpanoptic.bundle import load_weights

    beside = path.with_name(path.name + ".sha256")
    named = beside.read_text().split()[0] if beside.is_file() else hashlib.sha256(path.read_bytes()).hexdigest()
    load_weights(path, named)
    return grade.grade(case, []), ""


OPENERS = {
    "dicom_folder": open_volume,
    "nifti": open_volume,
    "archive": open_volume,
    "image2d": open_volume,
    "npy": open_volume,
    "image_mask_pair": open_labels,
    "instance_map": open_labels,
    "bundle": open_bundle,
    "weights": open_weights,
}


def run_child(case: dict[str, Any], collection: Path, root: Path, answer: Connection) -> None:
    """Grade one case in this process; send the grade, the words, the seconds, the peak memory, and what was touched."""
    touched: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "pickle.find_class"}:
            touched.append(event)
        if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and "_OUTSIDE" in str(arguments[0]):
            touched.append("opened a file outside")

    os.chdir(root / "_work")
    grade = load_grade(collection)
    if case["kind"] in {"bundle", "weights"}:
        # it starts programs to learn about the machine, and that is not the input's doing
        import torch  # noqa: F401
    sys.addaudithook(watch)
    started = time.monotonic()
    outcome, said = grade_case(case, root, grade)
    seconds = time.monotonic() - started
    answer.send({"grade": outcome, "said": said, "seconds": seconds, "peak_mb": peak_mb(), "touched": touched})


def peak_mb() -> float:
    if os.name == "nt":
        return float("nan")
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)


def run_case(case: dict[str, Any], collection: Path, root: Path) -> dict[str, Any]:
    """Run a case in a child process, with its limits, in a folder where nothing may appear."""
    limits, work = case["limits"], root / "_work"
    work.mkdir(exist_ok=True)
    bait = root / case.get("must_not_read", "")
    if bait.is_file():
        # a reading that Python does not see, by a C library, still moves the time of access
        os.utime(bait, (0, bait.stat().st_mtime))
    receive, send = PROCESSES.Pipe(duplex=False)
    child = PROCESSES.Process(target=run_child, args=(case, collection, root, send))
    child.start()
    send.close()
    found = {"grade": "TIMEOUT", "said": "", "seconds": limits["max_seconds"], "peak_mb": 0.0, "touched": []}
    if receive.poll(limits["max_seconds"] + 30):
        try:
            found = receive.recv()
        except EOFError:
            found |= {"grade": "CRASH"}
    child.kill()
    child.join()
    canaries = [*root.parent.rglob("MEDPANOPTIC_CANARY"), *work.iterdir()]
    found["said"] = found["said"] or ", ".join(found["touched"])
    if found["touched"] or canaries or (bait.is_file() and bait.stat().st_atime > 0):
        found["grade"] = "CANARY"
    elif found["seconds"] > limits["max_seconds"] or found["peak_mb"] > limits["max_rss_mb"]:
        found["grade"] = "OVER_LIMIT"
    return found


def run_all(collection: Path, only: list[str]) -> int:
    if os.name != "nt":
        PROCESSES.set_forkserver_preload(["medpanoptic.io", "medpanoptic.bundle", "pydicom.pixels"])
    cases = json.loads((collection / "manifest.json").read_text())["cases"]
    cases = [c for c in cases if not only or any(word in c["name"] for word in only)]
    private = Path(tempfile.mkdtemp(prefix="bad-inputs-"))
    try:
        with tarfile.open(collection / "bad_inputs.tar.gz") as archive:
            archive.extractall(private, filter="data")
        root = private / "bad_inputs"
        totals: Counter[str] = Counter()
        slowest = largest = 0.0
        for case in cases:
            found = run_case(case, collection, root)
            totals[found["grade"]] += 1
            slowest, largest = max(slowest, found["seconds"]), max(largest, found["peak_mb"])
            numbers = f"{found['seconds']:5.1f} s {found['peak_mb']:6.0f} MB"
            said = " ".join(found["said"].split())[:90]
            print(f"{case['name']:36} {found['grade']:20} {numbers}  {said}", flush=True)
    finally:
        shutil.rmtree(private, ignore_errors=True)
    print(f"\n{len(cases)} cases: " + ", ".join(f"{n} {grade}" for grade, n in totals.most_common()))
    print(f"slowest {slowest:.1f} s, largest {largest:.0f} MB")
    return int(any(grade not in GOOD for grade in totals))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "bad_inputs"
    parser.add_argument("collection", nargs="?", type=Path, default=default)
    parser.add_argument("--only", nargs="*", default=[], help="parts of case names")
    options = parser.parse_args()
    return run_all(options.collection, options.only)


if __name__ == "__main__":
    sys.exit(main())
