"""Time a reader's edits on a 512 x 512 x 300 study: from the call to new measures and a new row in the list.

Run: python benchmarks/review.py [--slices 300]. The target is 200 ms an edit, without the screen, on an idle
core (CPU ms). The reference is what
the journal replaces: a copy of the id map, as one validated result per edit would need.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from medpanoptic.classes import ClassInfo, ClassTable, Code
from medpanoptic.geometry import spatial_affine
from medpanoptic.io import write_result
from medpanoptic.result import PanopticResult, Segment
from medpanoptic.review import ReviewSession, stroke, update_rows, worklist
from medpanoptic.volume import Channel, Volume

CODE = Code("108369006", "SCT", "Neoplasm")
CLASSES = ClassTable(
    (
        ClassInfo(1, "background", False, (0, 0, 0), CODE, CODE),
        ClassInfo(2, "body", False, (90, 90, 90), CODE, CODE),
        ClassInfo(3, "tumour", True, (255, 0, 0), CODE, CODE),
    )
)
SPACING = (1.5, 0.8, 0.8)
# centre (voxels) and radius in mm: a small, two middle and a large lesion, the two middle ones touching
LESIONS = (((0.3, 0.3, 0.3), 6), ((0.5, 0.5, 0.5), 18), ((0.5, 0.5, 0.57), 18), ((0.65, 0.6, 0.4), 40))


def phantom(shape: tuple[int, ...]) -> tuple[PanopticResult, Volume]:
    affine = spatial_affine(SPACING)
    stuff = np.ones(shape, np.uint8)
    stuff[:, shape[1] // 6 : -shape[1] // 6, shape[2] // 8 : -shape[2] // 8] = 2
    ids = stuff.astype(np.int32)
    image = np.random.default_rng(0).normal(0, 20, shape).astype(np.float32)
    for number, (place, radius) in enumerate(LESIONS, 3):
        region = stroke([np.array(place) * shape], radius, affine, shape)
        where = tuple(slice(a, b) for a, b in region.box)
        ids[where][region.mask] = number
        image[where][region.mask] += 80
    segments = (Segment(1, 1), Segment(2, 2), *(Segment(i + 3, 3, 0.8) for i in range(len(LESIONS))))
    result = PanopticResult(ids, segments, CLASSES, affine, stuff=stuff)
    return result, Volume(image[None], affine, (Channel("ct", "CT", "HU"),))


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return ms on the clock and ms of CPU: the second is what an idle core takes."""
    start, used = time.perf_counter(), time.process_time()
    work()
    return 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - used)


def edits(session: ReviewSession, shape: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    def near(lesion: int, radius: float) -> object:
        middle = [(a + b) / 2 for a, b in session.live.box(lesion)]
        middle[1] += (session.live.box(lesion)[1][1] - session.live.box(lesion)[1][0]) / 2  # on the rim
        return stroke([middle], radius, session.affine, shape)

    large = 6
    session.measures(3)  # what is done once in a program, such as imports
    return {
        "accept": lambda: session.accept(3),
        "paint a ball of 10 mm": lambda: session.paint(4, near(4, 10)),
        "paint on the lesion of 8 cm": lambda: session.paint(large, near(large, 10)),
        "erase a ball of 10 mm": lambda: session.erase(large, near(large, 10)),
        "undo": session.undo,
        "merge two of 3.6 cm": lambda: session.merge([4, 5]),
        "split them by seeds": lambda: session.split_by_seeds(4, [np.array(p) * shape for p, _ in LESIONS[1:3]]),
        "grow from a click": lambda: session.add_at(_free_place(session), 3),
        "split 8 cm by a line": lambda: session.split_by_line(large, *_line(session, large)),
        "delete a lesion of 6 cm": lambda: session.delete(large),
        "undo it": session.undo,
    }


def _line(session: ReviewSession, lesion: int) -> tuple[list[float], list[float]]:
    middle = [(a + b) / 2 for a, b in session.live.box(lesion)]
    return middle, [middle[0], middle[1] + 10, middle[2]]


def _free_place(session: ReviewSession) -> list[int]:
    """Put a bright ball where no lesion is and return its middle."""
    shape = session.ids.shape
    middle = [int(0.75 * n) for n in shape]
    region = stroke([middle], 12, session.affine, shape)
    where = tuple(slice(a, b) for a, b in region.box)
    if session.volume is not None and session.volume.array[(0, *middle)] < 60:
        session.volume.array[0][where][region.mask] += 80
    return middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    shape = (parser.parse_args().slices, 512, 512)
    result, volume = phantom(shape)
    copy, _ = timed(lambda: result.ids.copy())
    valid, _ = timed(lambda: PanopticResult(result.ids, result.segments, CLASSES, result.affine, stuff=result.stuff))
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "case"
        write_result(result, case, formats=["csv"])
        start = time.perf_counter()
        session = ReviewSession.open(case, volume, reader="benchmark")
        print(f"{'x'.join(map(str, shape))}: open the case {time.perf_counter() - start:.1f} s")
        state = {"table": worklist(session)}

        def follow(change: object) -> None:
            state["table"] = update_rows(state["table"], session, change.ids)  # type: ignore[attr-defined]

        session.listeners.append(follow)
        worst = 0.0
        print(f"{'edit':32} {'ms':>7} {'CPU ms':>7} {'journal, bytes':>15}")
        for name, work in edits(session, shape).items():
            before = case.joinpath("review", "journal.jsonl")
            size = before.stat().st_size if before.exists() else 0
            ms, cpu = timed(work)
            worst = max(worst, cpu)
            print(f"{name:32} {ms:7.1f} {cpu:7.1f} {before.stat().st_size - size:15,}")
        print(f"{'worst':32} {'':7} {worst:7.1f}   {'met' if worst < 200 else 'NOT met'}: under 200 ms")
        print(f"{'a copy of the map':32} {copy:7.1f}   a checked result {valid:.0f} ms: what each edit would cost")
        print(f"{'freeze to a result, to sign':32} {timed(session.freeze)[0]:7.1f}")


if __name__ == "__main__":
    main()
