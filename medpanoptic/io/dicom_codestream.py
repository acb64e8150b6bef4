"""What a compressed frame says of itself, read before a decoder allocates for it.

A frame of 1 KB may claim 60,000 x 60,000 pixels, whatever the DICOM header says.
Source: ITU-T T.81 B.2.2 (JPEG), T.87 C.2.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000, HTJ2K).
"""

from __future__ import annotations

from pydicom.uid import UID

_JPEG = {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81)}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 92, 93, 201, 202, 203)}
_FRAME_STARTS = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7}
_SCAN_STARTS, _END = 0xDA, b"\xff\xd9"
_J2K_START = b"\xff\x4f\xff\x51"


def frame_size(frame: bytes, syntax: UID) -> tuple[int, int, int] | None:
    """Return (rows, columns, components) of one compressed frame, None where its syntax or damage hides them."""
    if syntax in _JPEG_2000:
        return _size_2000(frame)
    return _size_jpeg(frame) if syntax in _JPEG else None


def frame_ends(frame: bytes, syntax: UID) -> bool:
    """Tell whether a JPEG or JPEG-LS frame has its end mark: their decoders make up what is cut off."""
    return syntax not in _JPEG or frame.rstrip(b"\0").endswith(_END)


def _size_2000(frame: bytes) -> tuple[int, int, int] | None:
    # the stream may stand in a JP2 file, whose boxes come first
    start = frame.find(_J2K_START, 0, 2**16)
    numbers = [int.from_bytes(frame[start + 8 + 4 * i : start + 12 + 4 * i]) for i in range(4)]
    components = frame[start + 40 : start + 42]
    if start < 0 or len(components) < 2:
        return None
    width, height, left, top = numbers
    return height - top, width - left, int.from_bytes(components)


def _size_jpeg(frame: bytes) -> tuple[int, int, int] | None:
    place = 2
    while place + 10 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker in _FRAME_STARTS:
            rows, columns = int.from_bytes(frame[place + 5 : place + 7]), int.from_bytes(frame[place + 7 : place + 9])
            return rows, columns, frame[place + 9]
        elif marker == _SCAN_STARTS:
            return None
        else:
            place += 2 + int.from_bytes(frame[place + 2 : place + 4])
    return None
