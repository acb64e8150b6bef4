"""A real Orthanc on loopback for a test: ports of its own, nothing left behind."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PROGRAM = shutil.which("Orthanc")
PLUGIN = next(iter(sorted(Path("/usr").glob("*/orthanc/plugins/libOrthancDicomWeb.so"))), None)
MISSING = "needs Orthanc with DICOMweb (Debian: orthanc orthanc-dicomweb)"
_SECONDS = 40  # to start on a busy machine; two are usual


class Orthanc(NamedTuple):
    """Where a running server listens: its DICOM port and AE title, its DICOMweb and REST addresses."""

    dicom_port: int
    aet: str
    dicomweb: str
    rest: str


def is_there() -> bool:
    """Tell whether Orthanc and its DICOMweb plugin are installed."""
    return PROGRAM is not None and PLUGIN is not None


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start Orthanc with an empty store in ``folder`` and stop it at the end of the block."""
    dicom_port, http_port = free_ports(2)
    settings = {
        "Name": "test",
        "StorageDirectory": str(folder / "store"),
        "IndexDirectory": str(folder / "store"),
        "Plugins": [str(PLUGIN)],
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": "TEST",
        "DicomPort": dicom_port,
        # LABELMAP and bulk annotations are younger than this Orthanc
        "UnknownSopClassAccepted": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "orthanc.json").write_text(json.dumps(settings), encoding="utf-8")
    address = f"http://127.0.0.1:{http_port}"
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([str(PROGRAM), str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            _wait(process, f"{address}/system", folder / "orthanc.log")
            yield Orthanc(dicom_port, "TEST", f"{address}/dicom-web", address)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    holders = [socket.socket() for _ in range(count)]
    try:
        for holder in holders:
            holder.bind(("127.0.0.1", 0))
        return [holder.getsockname()[1] for holder in holders]
    finally:
        for holder in holders:
            holder.close()


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"Orthanc did not start: {log.read_text(errors='replace')[-2000:]}")
