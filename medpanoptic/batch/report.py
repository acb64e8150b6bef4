"""How a batch is doing: figures from the ledger, one study looked up, a static HTML page."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from medpanoptic import __version__
from medpanoptic.batch.keys import load_key, study_handle
from medpanoptic.batch.ledger import Ledger
from medpanoptic.batch.lock import is_held
from medpanoptic.batch.settings import FINISHED, OPEN, Folders
from medpanoptic.errors import BatchError

_MOST_ROWS, _MOST_PICTURES = 1000, 200
# heading of the page -> field of the ledger
_COLUMNS = {
    "study": "study", "state": "state", "code": "code", "stage": "stage", "attempts": "attempts",
    "seconds": "duration_s", "peak MiB": "peak_mb", "worker": "worker",
}  # fmt: skip
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1c2530}"
    "h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}"
    "table{border-collapse:collapse}th,td{text-align:left;padding:.25rem .9rem .25rem 0}"
    "th,td{border-bottom:1px solid #dde3ea}"
    "th{font-weight:600;color:#51606f}td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "code,td.h{font-family:ui-monospace,monospace;font-size:.85em}p.note{color:#51606f}"
    ".bar{display:flex;height:1.1rem;border-radius:.3rem;overflow:hidden;margin:1rem 0}"
    "figure{display:inline-block;margin:0 1rem 1rem 0;vertical-align:top}figure img{max-width:220px;max-height:220px}"
    "td i{display:inline-block;width:.7em;height:.7em;margin-right:.5em;border-radius:.15em}"
    "figcaption{font-size:.75em;color:#51606f}.wide{overflow-x:auto}"
)
_COLORS = {
    "done": "#2e7d5b",
    "done-empty": "#7fb69e",
    "running": "#3b78c2",
    "queued": "#c3ccd6",
    "refused": "#d9a13b",
    "failed": "#c4503c",
    "quarantined": "#7a3b8f",
}


@dataclass(frozen=True)
class Status:
    """Figures of a ledger. ``run`` : the row of the newest run; ``ended_now`` : studies that came to an end in it.

    ``working`` : a batch holds the folder at this moment.
    """

    counts: Mapping[str, int]
    codes: list[dict[str, Any]]
    totals: Mapping[str, Any]
    run: Mapping[str, Any]
    ended_now: int
    working: bool

    @property
    def state(self) -> str:
        """What the batch is doing, in words."""
        finished = not self.run or self.run["ended"] is not None
        if self.working:
            return "scanning" if finished else "running"
        if not finished:
            return "broken off; go on with --resume"
        return "ended" + (f" early, {self.run['stopped']}; go on with --resume" if self.run.get("stopped") else "")

    @property
    def per_hour(self) -> float:
        """Studies per hour of the newest run; while it runs, by the wall clock."""
        if self.run.get("seconds"):
            return float(3600 * (self.run["finished"] or 0) / self.run["seconds"])
        seconds = time.time() - self.run["started"] if self.working and self.run else 0.0
        return 3600 * self.ended_now / seconds if seconds > 0 else 0.0

    def figures(self) -> dict[str, str]:
        """Return what people want to know first, as text."""
        totals, left = self.totals, sum(self.counts[state] for state in OPEN)
        rate = self.per_hour
        return {
            "model": str(self.run.get("model", "")),
            "state": self.state,
            "studies per hour": f"{rate:.0f}" if rate else "-",
            **({"time left": clock(3600 * left / rate)} if self.state == "running" and rate else {}),
            "seconds per study, mean and longest": f"{totals['mean_s'] or 0:.2f}, {totals['longest_s'] or 0:.2f}",
            "attempts, of those without result": f"{totals['attempts']}, {totals['failed_attempts']}",
            "fallbacks for memory": str(totals["fallbacks"]),
            "peak memory of a worker": f"{totals['peak_mb'] or 0:.0f} MiB",
            "things found": str(totals["things"] or 0),
        }

    def as_json(self) -> dict[str, Any]:
        """Return everything, as plain values."""
        keys = ("counts", "codes", "totals", "run", "state", "working")
        return {**{key: getattr(self, key) for key in keys}, "per_hour": round(self.per_hour, 1)}


def clock(seconds: float) -> str:
    """3725 -> 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def read_status(
    output: str | Path, *, ledger_folder: str | Path | None = None, export: str | Path | None = None
) -> Status:
    """Read the figures of a batch, also while it runs. export : write all rows there, as JSON lines.

    Raises BatchError: LEDGER-MISSING, LEDGER-DAMAGED, LEDGER-LOCKED.
    """
    with closing(_open(output, ledger_folder)) as ledger:
        if export is not None:
            ledger.export(Path(export))
        return _status(ledger, Path(output))


def _status(ledger: Ledger, output: Path) -> Status:
    run = ledger.last_run() or {}
    ended = ledger.ended_in(run["run"]) if run else 0
    return Status(ledger.counts(), ledger.codes(), ledger.totals(), run, ended, is_held(output))


def find_study(
    output: str | Path,
    study: str,
    *,
    ledger_folder: str | Path | None = None,
    key_file: str | Path | None = None,
) -> dict[str, Any]:
    """Return the row of one study: by handle, StudyInstanceUID, or path of an image file.

    UIDs and paths need the batch's key. Raises BatchError (STUDY-UNKNOWN) and those of ``read_status``.
    """
    names = [study]
    folders = _folders(output, ledger_folder)
    path = folders.key if key_file is None else Path(key_file)
    if path.is_file():
        key = load_key(path)
        names += [study_handle(key, study), study_handle(key, str(Path(study).resolve()))]
    with closing(_open(output, ledger_folder)) as ledger:
        for name in names:
            if (row := ledger.get(name)) is not None:
                return {**row, "outputs": json.loads(row["outputs"])}
    raise BatchError("STUDY-UNKNOWN", "the ledger has no such study; give a handle, a StudyInstanceUID or a file")


def write_report(output: str | Path, *, ledger_folder: str | Path | None = None, thumbnails: bool = False) -> Path:
    """Write ``output``/report.html: one page without scripts. thumbnails : with patient images, the overlays.

    Raises BatchError as ``read_status``.
    """
    folders = _folders(output, ledger_folder)
    with closing(_open(output, ledger_folder)) as ledger:
        status = _status(ledger, folders.output)
        ended_badly = (r for r in ledger.studies() if r["state"] not in (*OPEN, *FINISHED))
        bad = sorted(islice(ended_badly, _MOST_ROWS), key=lambda row: (row["state"], row["code"]))
        done = (r["study"] for r in ledger.studies() if r["state"] in FINISHED)
        pictures = [h for h in done if (folders.results / h / "overlay.png").is_file()] if thumbnails else []
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>medpanoptic batch</title>",
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>",
        f"<h1>Batch: {html.escape(str(status.run.get('model', '')))}</h1><p class=note>medpanoptic {__version__}, "
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}. Research use only. Not a medical device.",
        _bar(status.counts),
        _states(status.counts),
        "<h2>Figures</h2>" + _table(("figure", "value"), status.figures().items()),
    ]
    if status.codes:
        names = ("state", "code", "stage", "number")
        parts += ["<h2>Reasons</h2>", _table(names, ([r[n] for n in names] for r in status.codes))]
    if bad:
        more = f" (the first {_MOST_ROWS})" if len(bad) == _MOST_ROWS else ""
        rows = ([r[name] for name in _COLUMNS.values()] for r in bad)
        parts += [f"<h2>Studies without a result{more}</h2>", _table(_COLUMNS, rows)]
    if thumbnails:
        shown = "".join(_figure(handle) for handle in pictures[:_MOST_PICTURES])
        parts += [f"<h2>Overlays ({min(len(pictures), _MOST_PICTURES)} of {len(pictures)})</h2>{shown}"]
    path, draft = folders.output / "report.html", folders.output / ".report.html.part"
    draft.write_text("\n".join(parts), encoding="utf-8", newline="\n")
    draft.replace(path)
    return path


def _figure(handle: str) -> str:
    return (
        f"<figure><img loading=lazy src='results/{handle}/overlay.png' alt='overlay'>"
        f"<figcaption><code>{handle}</code></figcaption></figure>"
    )


def _bar(counts: Mapping[str, int]) -> str:
    """Return the shares of the states as one bar."""
    parts = "".join(
        f"<span style='flex:{number};background:{_COLORS[state]}' title='{state}: {number}'></span>"
        for state, number in counts.items()
        if number
    )
    return f"<div class=bar>{parts}</div>"


def _states(counts: Mapping[str, int]) -> str:
    """Return the number of studies in each state, in the colours of the bar."""
    rows = "".join(
        f"<tr><td><i style='background:{_COLORS[state]}'></i>{state}{_cell(n)}" for state, n in counts.items()
    )
    return f"<table><tr><th>state<th>studies{rows}</table>"


def _table(names: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = "".join(f"<th>{html.escape(name)}" for name in names)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}" for row in rows)
    return f"<div class=wide><table><tr>{head}{body}</table></div>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"<td class=n>{value:.2f}"
    text = "" if value is None else html.escape(str(value))
    return f"<td class=n>{text}" if isinstance(value, int) else f"<td>{text}"


def _folders(output: str | Path, ledger_folder: str | Path | None) -> Folders:
    return Folders(Path(output).absolute(), None if ledger_folder is None else Path(ledger_folder).absolute())


def _open(output: str | Path, ledger_folder: str | Path | None) -> Ledger:
    return Ledger(_folders(output, ledger_folder).ledger, read_only=True)
