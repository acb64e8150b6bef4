"""What a hand does on a canvas, for the viewer tests."""

from __future__ import annotations

import numpy as np


def canvas_of(viewer):
    """The widget that is drawn on."""
    return viewer.window._qt_viewer.canvas.native


def spot(viewer, world, canvas=None):
    """Return where a point in viewer coordinates is on the canvas; ``canvas`` : of another model than the viewer."""
    from qtpy.QtCore import QPoint

    rows_columns = np.array([world[axis] for axis in viewer.dims.displayed])
    camera = viewer.scene.camera
    canvas = canvas or canvas_of(viewer)
    middle = np.array([canvas.height(), canvas.width()]) / 2
    row, column = (rows_columns - np.array(camera.center)[-2:]) * camera.zoom + middle
    return QPoint(round(column), round(row))


def middle_of(reading, lesion):
    """Viewer coordinates of the voxel of a lesion that lies deepest in it."""
    from scipy import ndimage

    mask = np.asarray(reading.things.data) == lesion
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[(slice(1, -1),) * mask.ndim]
    return world_of(reading.things, np.unravel_index(int(depth.argmax()), mask.shape))


def drag(qtbot, canvas, start, stop, button=None, held=None):
    """Press, move in four steps, release."""
    from qtpy.QtCore import QPoint, Qt

    button, held = button or Qt.MouseButton.LeftButton, held or Qt.KeyboardModifier.NoModifier
    qtbot.mouseMove(canvas, start)
    qtbot.mousePress(canvas, button, held, pos=start)
    for part in (0.25, 0.5, 0.75, 1.0):
        way = QPoint(round(part * (stop.x() - start.x())), round(part * (stop.y() - start.y())))
        press_move(canvas, start + way, button, held)
        qtbot.wait(10)
    qtbot.mouseRelease(canvas, button, held, pos=stop)


def press_move(canvas, at, button, held):
    """Move with a button held: qtbot's own moves carry none."""
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    place = QPointF(at)
    event = QMouseEvent(
        QEvent.Type.MouseMove,
        place,
        QPointF(canvas.mapToGlobal(at)),
        Qt.MouseButton.NoButton,
        button,
        held,
    )
    QApplication.sendEvent(canvas, event)


def world_of(layer, index):
    """Viewer coordinates of a voxel."""
    return np.asarray(index) * layer.scale + layer.translate
