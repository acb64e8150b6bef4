"""Where the docks of a review stand: one group of tabs on the left, which has the whole height of the window."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt

from napari_medpanoptic.compare_widget import CompareWidget
from napari_medpanoptic.display_widget import DisplayWidget
from napari_medpanoptic.follow_up_widget import FollowUpWidget
from napari_medpanoptic.planes import PlanesWidget, planes_of
from napari_medpanoptic.reading import Reading
from napari_medpanoptic.review_widget import ReviewWidget

# the list shows its measures, and the picture keeps more than half of a small screen
WIDTH = 450


def review_if_open(viewer: Any) -> ReviewWidget | None:
    """Return the Review dock of a viewer, or None."""
    found: ReviewWidget | None = _find(viewer, ReviewWidget)
    return found


def review_of(viewer: Any) -> ReviewWidget:
    """Return the Review dock of a viewer, opened if it is not there."""
    found = review_if_open(viewer)
    if found is None:
        found = ReviewWidget(viewer)
        viewer.window.add_dock_widget(found, name="Review", area="left")
    return found


def add_docks(viewer: Any, widget: ReviewWidget, reading: Reading) -> FollowUpWidget:
    """Put Display, Compare and Follow-up behind the list, and the other planes on the right; return Follow-up.

    Compare and Follow-up of the last review go. napari's own two docks become tabs as well: the list needs their place.
    """
    for old in list(viewer.window.dock_widgets.values()):
        if isinstance(old, CompareWidget | FollowUpWidget):
            old.end()
            viewer.window.remove_dock_widget(old)
    if reading.session.ids.ndim == 3 and planes_of(viewer) is None:
        viewer.window.add_dock_widget(PlanesWidget(viewer), name="Planes", area="right")
    display = _find(viewer, DisplayWidget)
    if display is None:
        display = DisplayWidget(viewer)
        viewer.window.add_dock_widget(display, name="Display", area="left")
    compare, follow_up = CompareWidget(reading), FollowUpWidget(reading)
    viewer.window.add_dock_widget(compare, name="Compare", area="left")
    viewer.window.add_dock_widget(follow_up, name="Follow-up", area="left")
    _as_tabs(viewer, widget, [display, compare, follow_up])
    return follow_up


def _as_tabs(viewer: Any, first: ReviewWidget, others: list[Any]) -> None:
    window, canvas = viewer.window._qt_window, viewer.window._qt_viewer
    own = first.parentWidget()
    if window.dockWidgetArea(own) != Qt.DockWidgetArea.LeftDockWidgetArea:
        window.addDockWidget(Qt.DockWidgetArea.LeftDockWidgetArea, own)
    docks = [*(widget.parentWidget() for widget in others), canvas.dockLayerList, canvas.dockLayerControls]
    for dock in docks:
        if not dock.isFloating():
            window.tabifyDockWidget(own, dock)
    own.setWindowTitle("Review")  # napari adds the plugin's name, which leaves the other tabs no room
    own.show()
    own.raise_()
    window.resizeDocks([own], [WIDTH], Qt.Orientation.Horizontal)


def _find(viewer: Any, kind: type) -> Any:
    return next((dock for dock in viewer.window.dock_widgets.values() if isinstance(dock, kind)), None)
