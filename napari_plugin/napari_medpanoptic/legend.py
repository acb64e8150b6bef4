"""A legend: the colour, name and count of each class in the results that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QLabel

from medpanoptic.classes import ClassInfo
from medpanoptic.result import PanopticResult
from napari_medpanoptic.layers import KEY

BLACK = (0, 0, 0)


class Legend(QLabel):
    """Lines of colour and class, empty without a result."""

    def __init__(self) -> None:
        super().__init__()
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setWordWrap(True)

    def show_results(self, layers: Sequence[Any]) -> None:
        """Show the classes of the results of Labels layers."""
        results = {id(r): r for layer in layers if (r := layer.metadata[KEY].get("result")) is not None}
        self.setText("<br>".join(legend_html(result) for result in results.values()))
        self.setVisible(bool(results))


def legend_html(result: PanopticResult) -> str:
    """Return one line per class that the viewer draws: things with their number, then stuff."""
    counts = {c.id: sum(s.class_id == c.id for s in result.things) for c in result.classes.things}
    lines = [_line(c, f"{c.name}: {counts[c.id]}") for c in result.classes.things]
    # black stuff is not drawn
    lines += [_line(c, c.name) for c in result.classes.stuff if c.color != BLACK]
    return "<br>".join(lines)


def _line(info: ClassInfo, text: str) -> str:
    return f"<span style='color: rgb{info.color}'>\N{BLACK SQUARE}</span> {escape(text)}"
