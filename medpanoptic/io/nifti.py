"""NIfTI in and out: the one place besides preprocessing where RAS appears.

Files count (x, y, z) in RAS mm; arrays here are (slice, row, column) = (z, y, x) with an affine to LPS mm.
Source: NIfTI-1 and NIfTI-2 header definitions (nifti1.h, nifti2.h).
"""

from __future__ import annotations

import gzip
import math
import os
import tempfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from medpanoptic.errors import GeometryError, ReadError, WriteError
from medpanoptic.geometry import Affine, check_affine, is_rigid, lps_to_ras, reverse_axes
from medpanoptic.io.limits import MAX_DECODED_BYTES, check_size
from medpanoptic.io.quiet import quiet
from medpanoptic.volume import Channel, Source, Volume

# xyzt_units & 7 -> mm; 0 is "unknown", which every tool takes as mm
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
_HEADER_BYTES = 540
_FORMS_TOLERANCE = 1e-3


def read_nifti(path: Path, *, is_label: bool = False) -> Volume:
    """Read one NIfTI-1 or NIfTI-2 file, gzipped or not, into a (1, *S) volume, LPS.

    Values are the stored integers, or float32 where the file has a scale or holds floats.
    is_label : label maps may be packed far better than any image.
    Raises ReadError: NOT-NIFTI, READ-TRUNCATED, READ-TOO-LARGE, NIFTI-4D, NIFTI-DTYPE, SHAPE.
    GeometryError: NIFTI-FORMS, NIFTI-NO-ORIENTATION, NIFTI-UNITS, GEO-AFFINE.
    """
    with quiet("nibabel"):
        header, image_class = _read_header(path)
        shape = _spatial_shape(header, path, is_label)
        affine, notes = _lps_affine(header, path.name, len(shape))
        data = _read_bytes(path, header)
        try:
            values = _values(image_class.from_bytes(data)).reshape(shape, order="F")
        except (HeaderDataError, ValueError, OverflowError) as error:
            damage = type(error).__name__
        else:
            damage = ""
    if damage:
        raise ReadError("NOT-NIFTI", f"{path.name}: damaged NIfTI header or extension ({damage})")
    array = np.ascontiguousarray(values.transpose(range(len(shape))[::-1]))
    return Volume(array[None], affine, (Channel("image"),), Source(paths=(path,)), notes=tuple(notes))


def write_nifti(path: Path, array: NDArray, affine: Affine) -> None:
    """Write (*S) with its affine, whole or not at all.

    array : (slice, row, column) or (row, column), any real dtype that NIfTI knows; integers stay integers.
    affine : (4, 4) array index -> LPS mm. path : ends in .nii or .nii.gz.
    The gzip header carries no time and no name: the same input gives the same bytes.
    Raises WriteError: WRITE-SHAPE, WRITE-DTYPE, WRITE-FORMAT, WRITE-FAILED.
    """
    if array.ndim not in (2, 3):
        raise WriteError("WRITE-SHAPE", f"{path.name}: NIfTI takes 2 or 3 spatial axes, got shape {array.shape}")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise WriteError("WRITE-FORMAT", f"{path.name}: a NIfTI file ends in .nii or .nii.gz")
    stored = array.astype(np.uint8) if array.dtype == bool else array
    try:
        image = nibabel.Nifti1Image(stored.transpose(), _to_nifti_affine(affine, array.ndim), dtype=stored.dtype)
    except (HeaderDataError, ValueError) as error:
        raise WriteError(
            "WRITE-DTYPE", f"{path.name}: NIfTI cannot hold {array.dtype} {array.shape}: {error}"
        ) from error
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code="scanner")
    # a sheared affine has no quaternion form: readers then use the sform alone
    image.set_qform(image.affine, code="scanner" if is_rigid(image.affine) else "unknown")
    data = image.to_bytes()
    _replace(path, gzip.compress(data, compresslevel=6, mtime=0) if path.name.lower().endswith(".gz") else data)


def _replace(path: Path, data: bytes) -> None:
    """Write beside the target under a temporary name, then move into place."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # a temporary file is private; the result is as readable as any file that its user makes
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise WriteError("WRITE-FAILED", f"{path.name}: cannot be written: {error.strerror}") from error


def _to_nifti_affine(affine: Affine, ndim: int) -> Affine:
    """(slice, row, column) -> LPS to (x, y, z) -> RAS; a 2D array's first two axes are (row, column)."""
    matrix = check_affine(affine)
    columns = matrix[:, [1, 0, 2, 3]] if ndim == 2 else reverse_axes(matrix)
    return lps_to_ras(columns)


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if zipped else path.open("rb")


def _read_header(path: Path) -> tuple[nibabel.Nifti1Header, type[nibabel.Nifti1Image]]:
    """Read the header alone; the content tells gzip, version and byte order, not the name."""
    try:
        with _open(path) as file:
            start = file.read(_HEADER_BYTES)
    except (OSError, EOFError, zlib.error):
        raise ReadError("READ-TRUNCATED", f"{path.name}: the gzip stream is truncated or corrupt") from None
    for image_class in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        kind = image_class.header_class
        size, magic = kind.sizeof_hdr, start[344:348] if image_class is nibabel.Nifti1Image else start[4:8]
        if len(start) >= size and magic[:2] == b"n+" and magic[2:3] in (b"1", b"2"):
            try:
                return kind(start[:size]), image_class
            except (HeaderDataError, ValueError) as error:
                raise ReadError("NOT-NIFTI", f"{path.name}: damaged NIfTI header: {error}") from None
    raise ReadError("NOT-NIFTI", f"{path.name}: not a single-file NIfTI (.nii, .nii.gz); convert other formats first")


def _spatial_shape(header: nibabel.Nifti1Header, path: Path, is_label: bool) -> tuple[int, ...]:
    """Return the 2 or 3 spatial sizes in file order (x, y[, z])."""
    name = path.name
    full = tuple(int(n) for n in header.get_data_shape())
    # a trailing axis of length 1 is no axis; a z of length 1 is a single slice and stays
    while len(full) > 3 and full[-1] == 1:
        full = full[:-1]
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or (dtype.kind == "f" and dtype.itemsize > 8):
        raise ReadError("NIFTI-DTYPE", f"{name}: complex, colour or 128-bit voxels ({dtype}) are no gray image")
    if len(full) > 3:
        raise ReadError("NIFTI-4D", f"{name}: 4D, several volumes, size {list(full)}; give one file per channel")
    if len(full) < 2:
        raise ReadError("SHAPE", f"{name}: 1D data (dimension {list(full)}), an image has 2 or 3")
    check_size(full, max(4, dtype.itemsize), name, None if is_label else path.stat().st_size)
    return full


def _read_bytes(path: Path, header: nibabel.Nifti1Header) -> bytes:
    """Read the whole file; gzip to its end, so that its check sum is compared."""
    start, first = float(header["vox_offset"]), header.sizeof_hdr + 4
    # behind the header and four bytes that tell of extensions; 2**24 is far more than any of these
    if not first <= start <= 2**24 or not _has_sound_scale(header):
        raise ReadError("NOT-NIFTI", f"{path.name}: damaged NIfTI header, vox_offset, scl_slope or scl_inter is wrong")
    expected = int(start) + math.prod(int(n) for n in header.get_data_shape()) * header.get_data_dtype().itemsize
    if expected > MAX_DECODED_BYTES:
        raise ReadError("READ-TOO-LARGE", f"{path.name}: the header claims {expected} bytes, over the limit")
    try:
        with _open(path) as file:
            data = file.read(expected)
            trailing = 0
            while chunk := file.read(2**20):
                trailing += len(chunk)
                if trailing > 2**26:
                    raise ReadError("READ-TOO-LARGE", f"{path.name}: much more data than the header says")
    except (OSError, EOFError, zlib.error):
        raise ReadError("READ-TRUNCATED", f"{path.name}: the gzip stream is truncated or corrupt") from None
    if len(data) < expected:
        raise ReadError("READ-TRUNCATED", f"{path.name}: truncated, {len(data)} of {expected} bytes expected")
    if trailing >= (expected - int(start)) // max(int(n) for n in header.get_data_shape()):
        raise ReadError("NOT-NIFTI", f"{path.name}: damaged header, the file holds more slices than the size it says")
    return data


def _has_sound_scale(header: nibabel.Nifti1Header) -> bool:
    """0 and NaN mean no scale, as nibabel writes it; infinity and a shift of NaN mean nothing."""
    slope, shift = float(header["scl_slope"]), float(header["scl_inter"])
    return not math.isinf(slope) and (slope == 0 or math.isnan(slope) or math.isfinite(shift))


def _values(image: nibabel.Nifti1Image) -> NDArray:
    """Return native-endian voxels: integers as stored, else float32."""
    proxy = image.dataobj
    scaled = (proxy.slope, proxy.inter) != (1.0, 0.0)
    raw = np.asanyarray(proxy.get_unscaled())
    if raw.dtype.kind in "iu" and not scaled:
        return raw.astype(raw.dtype.newbyteorder("="), copy=False)
    return (raw * np.float64(proxy.slope) + np.float64(proxy.inter) if scaled else raw).astype(np.float32)


def _lps_affine(header: nibabel.Nifti1Header, name: str, ndim: int) -> tuple[Affine, list[str]]:
    """Return index (slice, row, column) or (row, column) -> LPS mm from sform or qform."""
    sform, qform = _form(header, "sform", name), _form(header, "qform", name)
    if sform is None and qform is None:
        raise GeometryError(
            "NIFTI-NO-ORIENTATION",
            f"{name}: neither sform nor qform is set, the orientation is unknown",
        )
    if sform is not None and qform is not None and not _same_forms(_checked(sform, name), qform):
        raise GeometryError("NIFTI-FORMS", f"{name}: sform and qform differ in the place of the image; correct one")
    chosen = sform if sform is not None else qform
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MM_PER_UNIT:
        raise GeometryError("NIFTI-UNITS", f"{name}: unknown spatial unit code {unit} in xyzt_units")
    matrix = np.array(chosen, np.float64)
    matrix[:3] *= _MM_PER_UNIT[unit]
    lps = lps_to_ras(_checked(matrix, name))
    return (lps[:, [1, 0, 2, 3]] if ndim == 2 else reverse_axes(lps)), _notes(matrix, unit, ndim)


def _checked(matrix: Affine, name: str) -> Affine:
    """Check an affine, naming the file in the error."""
    try:
        return check_affine(matrix)
    except GeometryError as error:
        raise GeometryError(error.code, f"{name}: {error.message}") from None


def _notes(matrix: Affine, unit: int, ndim: int) -> list[str]:
    notes = [] if unit in (0, 2) else [f"NIfTI units are {'m' if unit == 1 else 'micron'}, converted to mm"]
    if ndim == 2:
        notes.append("2D NIfTI: read as one 2D image")
    if not is_rigid(matrix):
        notes.append("the affine is sheared (a tilted acquisition), kept as it is")
    return notes


def _form(header: nibabel.Nifti1Header, kind: str, name: str) -> Affine | None:
    """Return sform or qform, None if its code is 0. Raises GeometryError (GEO-AFFINE) for a garbled quaternion."""
    try:
        matrix = header.get_sform(coded=True)[0] if kind == "sform" else header.get_qform(coded=True)[0]
    except (ValueError, HeaderDataError):
        raise GeometryError("GEO-AFFINE", f"{name}: the {kind} does not give a valid affine") from None
    return None if matrix is None else np.asarray(matrix, np.float64)


def _same_forms(sform: Affine, qform: Affine) -> bool:
    """Compare to 1e-3 of a voxel step and of the origin: quaternions in float32 hold no more."""
    scale = np.linalg.norm(sform[:3, :3], axis=0).max()
    axes = np.abs(sform[:3, :3] - qform[:3, :3]).max() <= _FORMS_TOLERANCE * scale
    origin = np.abs(sform[:3, 3] - qform[:3, 3]).max() <= _FORMS_TOLERANCE * max(1.0, np.abs(sform[:3, 3]).max())
    return bool(axes and origin)
