"""A small case for reviews: tissue in two classes, three lesions of two classes, two of which touch."""

from datetime import UTC, datetime, timedelta

import numpy as np

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.geometry import spatial_affine
from medpanoptic.result import Dropped, PanopticResult, Provenance, Segment
from medpanoptic.review import ReviewSession
from medpanoptic.volume import Channel, Volume

CODE = Code("108369006", "SCT", "Neoplasm")
CLASSES = ClassTable(
    (
        ClassInfo(1, "background", False, (0, 0, 0), CODE, CODE),
        ClassInfo(2, "organ", False, (0, 90, 0), CODE, CODE),
        ClassInfo(3, "tumour", True, (255, 0, 0), CODE, CODE),
        ClassInfo(4, "node", True, (255, 200, 0), CODE, CODE),
    )
)
SHAPE = (12, 16, 18)
SPACING = (3.0, 1.5, 1.0)


def tiny_result(shape=SHAPE, with_stuff=True, affine=None):
    """Ids 1, 2 tissue; 3, 4 tumours that touch at column 9; 5 a node. One dropped candidate with its mask."""
    ndim = len(shape)
    stuff = np.ones(shape, np.uint8)
    stuff[..., shape[-1] // 2 :] = 2
    ids = stuff.astype(np.int32)
    inner = (slice(3, 7),) * (ndim - 2)
    ids[(*inner, slice(4, 10), slice(4, 9))] = 3
    ids[(*inner, slice(4, 10), slice(9, 13))] = 4
    ids[(*inner, slice(12, 15), slice(2, 6))] = 5
    segments = [Segment(1, 1), Segment(2, 2), Segment(3, 3, 0.9), Segment(4, 3, 0.6), Segment(5, 4, 0.7)]
    box = (*(((8, 11),) * (ndim - 2)), (2, 5), (13, 17))
    dropped = Dropped(3, 0.3, "score", box, np.ones([b - a for a, b in box], bool))
    return PanopticResult(
        ids,
        tuple(segments),
        CLASSES,
        spatial_affine(SPACING[-ndim:], (-5, -6, -7)) if affine is None else affine,
        provenance=Provenance("tiny", "1"),
        stuff=stuff if with_stuff else None,
        dropped=(dropped,),
    )


def tiny_volume(result, modality="PT"):
    """Bright lesions (also the dropped one) over noise."""
    rng = np.random.default_rng(0)
    image = rng.normal(1, 0.05, result.ids.shape)
    image[np.isin(result.ids, [3, 4, 5])] += 8
    image[tuple(slice(a, b) for a, b in result.dropped[0].box)] += 5
    unit = "SUV" if modality == "PT" else "HU"
    return Volume(image[None].astype(np.float32), result.affine, (Channel("image", modality, unit),))


class Clock:
    """A clock that goes on by a second at each look."""

    def __init__(self):
        self.time = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self):
        self.time += timedelta(seconds=1)
        return self.time


def open_case(case, **options):
    """Open a folder of ``tiny_result`` with its image."""
    return ReviewSession.open(case, tiny_volume(tiny_result()), reader="A. Reader", clock=Clock(), **options)


def lines(case):
    """The lines of a case's journal."""
    return (case / "review" / "journal.jsonl").read_text("utf-8").splitlines()


def state(session):
    """All that a review holds."""
    return session.ids.tobytes(), dict(session.live.rows), len(session.edits)
