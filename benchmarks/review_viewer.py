"""Time what a reader waits for in napari: a brush stroke until it is drawn with new measures, and 50,000 rows.

Run: xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/review_viewer.py [--slices 300]. The target is 200 ms of
CPU, which is what an idle core takes, drawing included; without a graphics card the CPU draws too. "of it events" is
what runs in Qt's event loop after the action: drawing the canvases, laying out the docks. Each edit is made three times
and the median printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from review import CLASSES, phantom

from medpanoptic.geometry import spatial_affine
from medpanoptic.io import write_result
from medpanoptic.result import PanopticResult, Segment

LIMIT_MS = 200
SHOW_MS = 500
NUCLEI = 50_000


class Times:
    """ms of each action, in the order of the first round: on the clock, of CPU, and of CPU in the event loop."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[float, float, float]]] = {}

    def take(self, name: str, action: Callable[[], object]) -> None:
        """Do the action and all drawing that it asks for; CPU is that of this process with all its threads."""
        from napari.qt import get_qapp

        start, used = time.perf_counter(), time.process_time()
        action()
        done = time.process_time()
        for _ in range(3):  # an event may ask for another
            get_qapp().processEvents()
        end = time.process_time()
        row = tuple(1000 * ms for ms in (time.perf_counter() - start, end - used, end - done))
        self.found.setdefault(name, []).append(row)

    def report(self, goal: str = "", limit: float = 0.0) -> None:
        """Print the median of each action; with a goal, whether the worst of them meets it."""
        medians = {name: np.median(rows, axis=0) for name, rows in self.found.items()}
        for name, (ms, cpu, events) in medians.items():
            print(f"{name:44} {ms:8.0f} {cpu:8.0f} {events:8.0f}", flush=True)
        self.found.clear()
        if goal:
            worst = max(cpu for _, cpu, _ in medians.values())
            print(f"worst of {goal} {worst:.0f} ms CPU: {'met' if worst < limit else 'NOT met'}, under {limit:.0f}")


def volume_times(folder: Path, slices: int) -> None:
    """Time edits in the viewer on slices x 512 x 512 voxels."""
    import napari
    from napari_medpanoptic.layers import volume_layers
    from napari_medpanoptic.planes import planes_of
    from napari_medpanoptic.start import start_review

    shape = (slices, 512, 512)
    result, volume = phantom(shape)
    write_result(result, folder, formats=["csv"])
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    for data, look, _ in volume_layers(volume, "ct"):
        viewer.add_image(data, **look)
    state, times = {}, Times()
    times.take("open the review", lambda: state.update(dock=start_review(viewer, folder, reader="benchmark")))
    times.report()
    dock = state["dock"]
    reading, things = dock.reading, dock.reading.things
    canvases = [viewer.window._qt_viewer.canvas, *(side.qt.canvas for side in planes_of(viewer).sides)]
    reading.go_on = False
    things.brush_size = 20

    def stroke(offset: int, label: int | None = None) -> None:
        middle = things.world_to_data(viewer.dims.point).round().astype(int) + np.array([0, offset, offset])
        things.paint(tuple(middle), reading.current if label is None else label)

    for _ in range(3):
        reading.go(4)
        times.take("(all three canvases drawn, nothing done)", lambda: [canvas.native.update() for canvas in canvases])
    times.report()
    for way in range(3):
        reading.go(4)
        times.take("(to the first lesion)", lambda: None)
        times.take("paint a disc of 20 voxels, in one plane", lambda: stroke(15 + way))  # noqa: B023
        times.take("undo it", reading.undo)
        times.take("redo it", reading.redo)
        times.take("erase where all three planes cut it", lambda: stroke(0, label=0))
        times.take("undo that, all planes", reading.undo)
        times.take("accept", lambda: reading.verdict("unsure" if way == 1 else "accepted"))  # noqa: B023
        times.take("next lesion, all planes", lambda: reading.step(1))
        times.take("reject a lesion", lambda: reading.verdict("rejected"))
        times.take("undo the rejection", reading.undo)
    times.found.pop("(to the first lesion)")
    jumps = Times()
    jumps.found["next lesion, all planes"] = times.found.pop("next lesion, all planes")
    times.report("edits", LIMIT_MS)
    jumps.report("jumps", LIMIT_MS)
    times.take("show what was changed, the first time", dock.changed.toggle)
    times.report()
    for way in range(3):
        times.take("paint with that shown", lambda: stroke(30 + way))  # noqa: B023
        times.take("undo with that shown", reading.undo)
    times.report("edits with changes shown", LIMIT_MS)
    for _ in range(3):
        times.take("hide what was changed", dock.changed.toggle)
        times.take("show it again", dock.changed.toggle)
    times.report("showing changes again", SHOW_MS)
    viewer.close()


def list_times(folder: Path) -> None:
    """Time the list of 50,000 nuclei: one edit, sorting, filtering, the next row."""
    import napari
    from napari_medpanoptic.start import start_review

    side = int(np.ceil(np.sqrt(NUCLEI)))
    ids = np.ones((side * 6, side * 6), np.int32)
    corners = np.indices((side, side)).reshape(2, -1).T[:NUCLEI] * 6
    for row in range(4):
        for column in range(4):
            ids[corners[:, 0] + row, corners[:, 1] + column] = np.arange(3, NUCLEI + 3)
    scores = np.random.default_rng(0).random(NUCLEI)
    segments = (Segment(1, 1), *(Segment(i + 3, 3, float(score)) for i, score in enumerate(scores)))
    write_result(PanopticResult(ids, segments, CLASSES, spatial_affine((0.0005, 0.0005))), folder, formats=[])
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    state, times = {}, Times()
    times.take("open the review of 50,000", lambda: state.update(dock=start_review(viewer, folder, reader="b")))
    times.report()
    dock = state["dock"]
    reading = dock.reading
    for _ in range(3):
        times.take("accept, and on to the next", lambda: reading.verdict("accepted"))
        times.take("next row", lambda: reading.step(1))
        times.take("sort by size", lambda: dock._sort("size"))
        times.take("filter for accepted", lambda: dock.filter.setText("accepted"))
        times.take("filter taken away", lambda: dock.filter.setText(""))
    times.report("the list", LIMIT_MS)
    viewer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=300)
    slices = parser.parse_args().slices
    with tempfile.TemporaryDirectory() as folder:
        print(f"{f'{slices} x 512 x 512, two more planes open':44} {'ms':>8} {'CPU ms':>8} {'of it events':>8}")
        volume_times(Path(folder) / "volume", slices)
        list_times(Path(folder) / "nuclei")


if __name__ == "__main__":
    main()
