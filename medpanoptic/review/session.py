"""One reading of one case: the only thing of a review that changes. Every action is one Edit in one journal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from medpanoptic.errors import ReviewError
from medpanoptic.geometry import Affine
from medpanoptic.identity import uid_from
from medpanoptic.measure import Measures, is_calibrated, measure_segment
from medpanoptic.result import PanopticResult, Verdict
from medpanoptic.review import edits
from medpanoptic.review.case_files import OpenedCase, begin_line, open_case
from medpanoptic.review.edit import Change, Edit, Line, Row, edit_to_json
from medpanoptic.review.grow import Method, grow_at, main_channel
from medpanoptic.review.history import History
from medpanoptic.review.interpolate import interpolate_slices
from medpanoptic.review.journal import Journal
from medpanoptic.review.live_map import LiveMap
from medpanoptic.review.probability import ProbabilityMap, StoredProbability
from medpanoptic.review.regions import Region, slices
from medpanoptic.review.split import plane_of_line, split_by_plane, split_by_seeds, split_pieces
from medpanoptic.review.worklist import worklist
from medpanoptic.volume import Volume

Clock = Callable[[], datetime]


def now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


class ReviewSession:
    """A review in progress; open one with ``ReviewSession.open``, or on a result in memory.

    ids (*S) int32 is the live map: read it freely, change it only through the methods here. Each method that edits
    returns its ``Edit``, or None if there was nothing to change, and raises ReviewError with nothing changed.
    Indices are native (slice, row, column) or (row, column). Not for use from several threads at once.
    """

    def __init__(
        self,
        base: PanopticResult,
        volume: Volume | None = None,
        *,
        reader: str = "",
        clock: Clock = now,
        probability: Mapping[int, NDArray | ProbabilityMap] | None = None,
        opened: OpenedCase | None = None,
    ) -> None:
        """Start a review of ``base``; without ``opened`` nothing is written.

        volume : the image on the grid of ``base``, for grey values and growing. reader : the name that goes into
        journal and report. probability : class id -> (*S) of the model, for ``add_at``.
        """
        if volume is not None and volume.shape != base.ids.shape:
            raise ReviewError("REVIEW-IMAGE", f"the image is {volume.shape}, the result {base.ids.shape}: not one case")
        self.volume, self.reader = volume, reader.strip()
        self.probability: Mapping[int, NDArray | ProbabilityMap] = {} if probability is None else probability
        self.opened = opened
        self.model = opened.model if opened is not None else base
        source = volume.source if volume is not None and volume.source.series_uid else None
        rows, last_id = ({}, 0) if opened is None else (opened.rows, opened.last_id)
        self.live = LiveMap(base, source, rows, last_id)
        self.listeners: list[Callable[[Change], None]] = []
        self._clock = clock
        self.history = History(self._put)
        self._revision: dict[int, int] = {}
        self._measures: dict[int, tuple[int, Measures]] = {}
        self._focus: tuple[int, datetime] | None = None
        self.signed = self.signing = False
        self.journal = Journal() if opened is None else Journal(opened.journal, opened.text)
        self._begun = opened is not None and opened.begun
        if opened is not None:
            self.journal.extend(opened.pending)
            self.history.replay(opened.unsaved, self.live)

    @classmethod
    def open(
        cls,
        case: Path | str,
        volume: Volume | None = None,
        *,
        reader: str,
        unsaved: Literal["resume", "discard"] = "resume",
        clock: Clock = now,
        probability: Mapping[int, NDArray | ProbabilityMap] | None = None,
    ) -> ReviewSession:
        """Open the result folder ``case``: the last signed version, or the model's own result.

        unsaved : edits of a review that was left or killed before it was signed are done again, or set aside for good
        (they stay in the journal). ``find_unsaved`` tells beforehand. probability : None takes that of the model, where
        ``segment --keep-prediction`` kept it.
        Raises ReadError; ReviewError: JOURNAL-DAMAGED, REVIEW-TAMPERED (a signed version was changed), REVIEW-BASE (the
        case was segmented anew since), REVIEW-IMAGE (not the image that the review began with), REVIEW-READER.
        """
        if not reader.strip():
            raise ReviewError("REVIEW-READER", "a review needs the reader's name; it goes into journal and report")
        opened = open_case(Path(case), volume, discard=unsaved == "discard")
        probability = StoredProbability(Path(case)) if probability is None else probability
        session = cls(opened.base, volume, reader=reader, clock=clock, probability=probability, opened=opened)
        if opened.text.torn:
            session._append({"action": "recovered", "lost_bytes": opened.text.torn})
        if opened.discarded:
            session._append({"action": "discard", "lines": opened.discarded}, sync=True)
            session._begun = False
        return session

    # ---- looking

    @property
    def ids(self) -> NDArray[np.int32]:
        """The live id map, (*S) int32."""
        return self.live.ids

    @property
    def affine(self) -> Affine:
        """(4, 4) native index -> LPS mm."""
        return self.live.base.affine

    @property
    def calibrated(self) -> bool:
        """Whether mm are known: both the result and the image can say no."""
        return is_calibrated(self.live.base, self.volume)

    @property
    def version(self) -> int:
        """The version that signing will make: 1 for a first review."""
        return 1 if self.opened is None else self.opened.version

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that make up the review now, those taken back left out."""
        return tuple(self.history.done)

    @property
    def things(self) -> list[int]:
        """Ids of the lesions, rejected ones included."""
        return self.live.things

    def rows(self) -> pd.DataFrame:
        """Return the list of lesions as it is now; columns as in ``worklist``, and ``update_rows`` follows changes."""
        return worklist(self)

    def row(self, segment_id: int) -> Row:
        """Return the row of a lesion. Raises ReviewError (REVIEW-ID, REVIEW-STUFF)."""
        return self.live.thing(segment_id)

    def region(self, segment_id: int) -> Region:
        """Return the box and mask of a lesion."""
        self.live.thing(segment_id)
        return self.live.region(segment_id)

    def revision(self, segment_id: int) -> int:
        """Return a number that grows whenever the lesion's voxels change."""
        return self._revision.get(segment_id, 0)

    def measures(self, segment_id: int) -> Measures:
        """Return the measures of a lesion as it is now; worked out once per change of it."""
        revision = self.revision(segment_id)
        cached = self._measures.get(segment_id)
        if cached is None or cached[0] != revision:
            region = self.region(segment_id)
            found = measure_segment(segment_id, region.mask, region.box, self.affine, self.volume)
            cached = self._measures[segment_id] = (revision, found)
        return cached[1]

    def focus(self, segment_id: int) -> None:
        """Say which lesion the reader looks at from now on, so that the journal knows the seconds spent on it."""
        self._focus = (segment_id, self._clock())

    def freeze(self) -> PanopticResult:
        """Return the review as it stands as a result; rejected lesions are left out, tissue in their place."""
        return self.live.freeze()

    # ---- verdicts and words

    def set_verdict(self, segment_id: int, verdict: Verdict, note: str | None = None) -> Edit | None:
        """Set the verdict and, if not None, the reader's note."""
        edit = edits.set_verdict(self.live, [segment_id], verdict, note)
        return self._do(edit)

    def set_verdicts(self, segment_ids: Sequence[int], verdict: Verdict) -> Edit | None:
        """Set the verdict of many lesions in one edit, as in microscopy."""
        return self._do(edits.set_verdict(self.live, segment_ids, verdict))

    def accept(self, segment_id: int, note: str | None = None) -> Edit | None:
        """The lesion is real."""
        return self.set_verdict(segment_id, "accepted", note)

    def reject(self, segment_id: int, note: str | None = None) -> Edit | None:
        """The lesion is none: it stays in list and journal, but not in the signed result."""
        return self.set_verdict(segment_id, "rejected", note)

    def unsure(self, segment_id: int, note: str | None = None) -> Edit | None:
        """The reader cannot tell; the lesion stays in the signed result, marked so."""
        return self.set_verdict(segment_id, "unsure", note)

    def set_note(self, segment_id: int, note: str) -> Edit | None:
        """Replace the reader's note."""
        return self._do(edits.set_fields(self.live, segment_id, "note", note=note))

    def set_axes(self, segment_id: int, long_axis: Line | None, short_axis: Line | None) -> Edit | None:
        """Keep diameters that the reader drew (LPS mm); None goes back to the computed one."""
        return self._do(edits.set_fields(self.live, segment_id, "axes", long_axis=long_axis, short_axis=short_axis))

    def set_recist(
        self, segment_id: int, *, organ: str = "", is_node: bool = False, is_target: bool = False
    ) -> Edit | None:
        """Say what RECIST 1.1 needs to know of a lesion."""
        fields = {"organ": organ, "is_node": is_node, "is_target": is_target}
        return self._do(edits.set_fields(self.live, segment_id, "recist", **fields))

    def match(self, segment_id: int, tracking_uid: str) -> Edit | None:
        """Confirm that this is the lesion ``tracking_uid`` of a prior result. Raises ReviewError (REVIEW-TRACKING)."""
        return self._do(edits.set_tracking(self.live, segment_id, tracking_uid))

    # ---- voxels

    def paint(self, segment_id: int, region: Region) -> Edit | None:
        """Add a region (``stroke``, ``polygon``, ``region_of_indices``); other lesions are spared."""
        return self._do(edits.paint(self.live, segment_id, region))

    def erase(self, segment_id: int, region: Region) -> Edit | None:
        """Take a region from this lesion; tissue returns."""
        return self._do(edits.erase(self.live, segment_id, region))

    def add(self, region: Region, class_id: int) -> Edit | None:
        """Make a region a new lesion of a class."""
        return self._do(edits.add(self.live, region, class_id, self._new_uid))

    def add_at(
        self, index: Sequence[int], class_id: int, method: Method = "auto", reach_mm: float | None = None
    ) -> Edit | None:
        """Grow a new lesion from a click; see ``grow_at``. Raises ReviewError (REVIEW-GROW, REVIEW-IMAGE)."""
        region = grow_at(self.live, index, method, self.volume, self.probability.get(class_id), reach_mm)
        return self._do(edits.add(self.live, region, class_id, self._new_uid))

    def take_in(self, number: int) -> Edit | None:
        """Make candidate ``number`` of ``model.dropped`` a lesion."""
        if not 0 <= number < len(self.model.dropped):
            raise ReviewError("REVIEW-DROPPED", f"there are {len(self.model.dropped)} dropped candidates, from 0 on")
        return self._do(edits.take_in(self.live, number, self.model.dropped[number], self._new_uid))

    def delete(self, segment_id: int) -> Edit | None:
        """Take a lesion out of map and list."""
        return self._do(edits.delete(self.live, segment_id))

    def relabel(self, segment_id: int, class_id: int) -> Edit | None:
        """Give a lesion another class."""
        return self._do(edits.relabel(self.live, segment_id, class_id))

    def merge(self, segment_ids: Sequence[int]) -> Edit | None:
        """Join lesions; the first keeps its id, class, verdict and tracking UID."""
        return self._do(edits.merge(self.live, segment_ids))

    def split_by_seeds(self, segment_id: int, seeds: ArrayLike, on_image: bool = False) -> Edit | None:
        """Split around (k >= 2, ndim) native indices, along the waist or, ``on_image``, along edges of the image."""
        region = self.region(segment_id)
        image = None
        if on_image:
            image = self._image()[slices(region.box)]
        inside = np.atleast_2d(np.asarray(seeds, float)) - [start for start, _ in region.box]
        return self._split(segment_id, split_by_seeds(region.mask, inside, self._spacing, image))

    def split_by_plane(self, segment_id: int, point_mm: ArrayLike, normal: ArrayLike) -> Edit | None:
        """Split by a plane through a point, both LPS."""
        region = self.region(segment_id)
        offset = [start for start, _ in region.box]
        return self._split(segment_id, split_by_plane(region.mask, offset, self.affine, point_mm, normal))

    def split_by_line(
        self, segment_id: int, start: Sequence[float], stop: Sequence[float], axis: int = 0
    ) -> Edit | None:
        """Split along a line between two native indices drawn on a slice across ``axis``."""
        return self.split_by_plane(segment_id, *plane_of_line(start, stop, self.affine, axis))

    def split_pieces(self, segment_id: int) -> Edit | None:
        """Make each connected piece a lesion of its own."""
        return self._split(segment_id, split_pieces(self.region(segment_id).mask))

    def interpolate(self, segment_id: int, axis: int = 0, keys: Sequence[int] | None = None) -> Edit | None:
        """Fill the lesion between slices; ``keys``: native slices whose outline is right, None all drawn ones."""
        region = self.region(segment_id)
        first = region.box[axis][0]
        inner = None if keys is None else [k - first for k in keys]
        mask = interpolate_slices(region.mask, axis, self._spacing, inner)
        return self._do(edits.reshape(self.live, segment_id, Region(region.box, mask), "interpolate"))

    # ---- undo, redo, keeping

    def undo(self) -> Edit | None:
        """Take back the last edit; None if there is none."""
        return self._step("undo", self.history.done, self.history.undo)

    def redo(self) -> Edit | None:
        """Do the edit taken back last again; None if there is none."""
        return self._step("redo", self.history.undone, self.history.redo)

    def close(self) -> None:
        """Bring the journal to the disk. The edits are there for the next ``open``."""
        self.journal.sync()

    def begin_signing(self) -> str:
        """Bring the journal to the disk and return the ISO time of the signature; ``signing.sign`` does the rest."""
        self._begin()
        self.signing = True  # from here on the files say what the review is
        self.close()
        return self._clock().isoformat(timespec="seconds")

    def lock(self, sign_line: dict[str, Any]) -> None:
        """Close the journal with the line of the signature; no edit is taken any more."""
        self.journal.extend([sign_line])
        self.signed = True

    # ---- inside

    @property
    def _spacing(self) -> list[float]:
        return [float(v) for v in np.linalg.norm(self.affine[:3, : self.ids.ndim], axis=0)]

    def _image(self) -> NDArray:
        if self.volume is None:
            raise ReviewError("REVIEW-IMAGE", "this needs the image; open the case with it")
        return self.volume.array[main_channel(self.volume)]

    def _new_uid(self, segment_id: int) -> str:
        # the journal's head holds reader and time: two readers of one case never mint the same UID
        head = self.journal.head or f"{self.reader} {self._clock().isoformat()}"
        return uid_from("tracking", head, str(segment_id))

    def _split(self, segment_id: int, labels: NDArray[np.int32]) -> Edit | None:
        return self._do(edits.split(self.live, segment_id, labels, self._new_uid))

    def _do(self, edit: Edit) -> Edit | None:
        self._refuse_if_signed()
        if not len(edit.at) and not edit.rows_after:
            return None
        self._append({**edit_to_json(edit), "seconds": self._seconds(edit.segment)})
        self.history.do(edit)
        self._tell(edit.action, edit)
        return edit

    def _step(self, way: str, stack: list[Edit], step: Callable[[], None]) -> Edit | None:
        if not stack:
            return None
        edit = stack[-1]
        self._append({"action": way, "segment": edit.segment, "seconds": self._seconds(edit.segment)})
        step()
        self._tell(f"{way} {edit.action}", edit)
        return edit

    def _put(self, edit: Edit) -> None:
        self.live.apply(edit)
        if len(edit.at):
            for segment_id in edit.touched:
                self._revision[segment_id] = self.revision(segment_id) + 1

    def _tell(self, action: str, edit: Edit) -> None:
        change = Change(action, edit.box, edit.touched)
        for listener in tuple(self.listeners):
            listener(change)

    def _append(self, fields: Mapping[str, Any], *, sync: bool = False) -> None:
        self._begin()
        self.journal.append({**fields, "time": self._clock().isoformat(), "reader": self.reader}, sync=sync)

    def _refuse_if_signed(self) -> None:
        if self.signing:
            raise ReviewError("REVIEW-BUSY", "the review is being signed; nothing can be changed until that is done")
        if self.signed:
            raise ReviewError("REVIEW-SIGNED", "this version is signed and locked; open the case again for a new one")

    def _begin(self) -> None:
        """Write the first line of a review with its first edit: to open a case and look at it leaves no trace."""
        self._refuse_if_signed()
        if not self._begun:
            stamp = {"time": self._clock().isoformat(), "reader": self.reader}
            self.journal.append({**begin_line(self.opened, self.volume), **stamp}, sync=True)
            self._begun = True

    def _seconds(self, segment_id: int) -> float:
        """Return the seconds since the lesion came into focus or was last worked on, and count anew from now."""
        moment = self._clock()
        focused, since = self._focus or (segment_id, moment)
        self._focus = (segment_id, moment)
        # a clock that was set back must not make negative work
        return round(max(0.0, (moment - since).total_seconds()), 1) if focused == segment_id else 0.0
