"""A page that a browser opens from disk: the table, plots, and the worst cases as pictures."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medpanoptic.errors import DataError
from medpanoptic.metrics.calibration import Calibration
from medpanoptic.metrics.comparison import ANY_THING, CaseScore
from medpanoptic.metrics.pairs import Pair
from medpanoptic.metrics.tables import (
    FIGURES,
    case_table,
    instance_table,
    score_calibration,
    size_table,
    write_csv,
)

if TYPE_CHECKING:
    from pandas import DataFrame

_WORST = 6
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px}td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #ddd}
td:first-child,th:first-child{text-align:left}small{color:#777}img{max-width:100%}"""


def write_report(folder: Path, table: DataFrame, cases: Sequence[CaseScore], pairs: Sequence[Pair]) -> Path:
    """Write index.html, its pictures and table.csv, cases.csv, instances.csv, sizes.csv, calibration.csv.

    table : of ``tables.class_table``. pairs : to read the worst cases again. Returns the page.
    Raises DataError (REPORT-EXTRA) if matplotlib is not installed.
    """
    try:
        from medpanoptic.metrics import plots
    except ImportError as error:
        raise DataError("REPORT-EXTRA", "the report needs matplotlib: pip install 'medpanoptic[train]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    things = instance_table(cases)
    sizes, reliability = size_table(things), score_calibration(things)
    for name, frame in (("table", table), ("cases", case_table(cases)), ("instances", things), ("sizes", sizes)):
        write_csv(frame, folder / f"{name}.csv")
    write_csv(_calibration_frame(reliability), folder / "calibration.csv")
    plots.save(plots.classes(table), folder / "classes.png")
    plots.save(plots.sizes(sizes), folder / "sizes.png")
    plots.save(plots.reliability(reliability), folder / "reliability.png")
    body = [
        f"<h1>Evaluation of {len(cases)} cases</h1>",
        "<p>Figures are those of docs/metrics.md; in brackets the 95&nbsp;% interval of 1000 draws of the cases.</p>",
        _html_table(table),
        _picture("classes.png", "PQ by class", "Pooled over cases. Bars of stuff are gray; the two do not compare."),
        _picture("sizes.png", "PQ by size", "Bins hold a quarter of each class's true things (equivalent diameter)."),
        _picture(
            "reliability.png",
            "Are the scores what they say?",
            f"Expected calibration error {reliability.ece:.3f} over {int(reliability.n.sum())} predicted things. "
            "Scores under the fusion's threshold are not in a result.",
        ),
    ]
    if np.isfinite(table["hd95_mm"]).any():
        plots.save(plots.free_response(cases), folder / "froc.png")
        body.append(_picture("froc.png", "Detection at IoU &gt; 0.1", "Sensitivity against false alarms per case."))
    body.append("<h2>Worst cases</h2><p>By PQ of all things. Green: in both; red: predicted only; blue: missed.</p>")
    body += _worst(cases, pairs, folder)
    page = folder / "index.html"
    text = f'<!doctype html><meta charset="utf-8"><title>Evaluation</title><style>{_STYLE}</style>' + "\n".join(body)
    part = folder / ".index.html.part"
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, page)
    return page


def _worst(cases: Sequence[CaseScore], pairs: Sequence[Pair], folder: Path) -> list[str]:
    from medpanoptic.metrics import plots

    scored = [(c.classes[ANY_THING, "any"].counts, p) for c, p in zip(cases, pairs, strict=True)]
    ranked = sorted(((c.pq, p.name, c, p) for c, p in scored if not c.is_empty), key=lambda row: row[:2])
    blocks = []
    for number, (pq, name, counts, pair) in enumerate(ranked[:_WORST], 1):
        result, truth = pair.read()
        plots.save(plots.case(result, truth, pair.folder / "overlay.png"), folder / f"worst_{number}.png")
        said = f"PQ {pq:.3f}: {counts.tp} found, {counts.fp} false, {counts.fn} missed"
        blocks.append(_picture(f"worst_{number}.png", html.escape(name), said, level=3))
    return blocks


def _picture(name: str, title: str, text: str, level: int = 2) -> str:
    return f'<h{level}>{title}</h{level}><p>{text}</p><img src="{name}" alt="{title}">'


def _html_table(table: DataFrame) -> str:
    shown = [f for f in FIGURES if table[f].notna().any()]
    head = "".join(f"<th>{c}</th>" for c in ("class", "kind", "cases", "n", *shown))
    rows = []
    for row in table.to_dict("records"):
        cells = [html.escape(str(row["class"])), row["kind"], row["cases"], row["n"]]
        cells += [
            f"{row[f]:.3f}<br><small>[{row[f'{f}_low']:.3f}, {row[f'{f}_high']:.3f}]</small>"
            if row[f] == row[f]
            else ""
            for f in shown
        ]
        rows.append("<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _calibration_frame(found: Calibration) -> DataFrame:
    import pandas as pd

    columns = {"low": found.edges[:-1], "high": found.edges[1:], "n": found.n, "score": found.score}
    return pd.DataFrame(columns | {"right": found.right})
