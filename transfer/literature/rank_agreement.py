"""How far a cheap protocol ranks published backbones as a dearer one does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transfer.comparison.ladder import Agreement, agreement
from transfer.literature.rows import PublishedRow, identity, load

C4, FPN, RETINANET = "Mask R-CNN R50-C4", "Mask R-CNN R50-FPN", "RetinaNet R50"


class Cheap(NamedTuple):
    """Two tables of published rows: (detector, schedule) of the cheap and of the dear one, and a metric of both."""

    name: str
    cheap: tuple[str, str]
    dear: tuple[str, str]
    metric: str = "APbb"


PROXIES = (
    Cheap("COCO 12k to 1x, R50-C4", (C4, "12k"), (C4, "1x")),
    Cheap("COCO 12k to 1x, R50-FPN", (FPN, "12k"), (FPN, "1x")),
    Cheap("COCO 12k to 1x, RetinaNet", (RETINANET, "12k"), (RETINANET, "1x")),
    Cheap("COCO 1x to 2x, R50-C4", (C4, "1x"), (C4, "2x")),
    Cheap("COCO 1x to 2x, R50-FPN", (FPN, "1x"), (FPN, "2x")),
    Cheap("COCO 1x to 2x, RetinaNet", (RETINANET, "1x"), (RETINANET, "2x")),
    Cheap("COCO 1x, R50-C4 to R50-FPN", (C4, "1x"), (FPN, "1x")),
)


def published_agreements(rows: Sequence[PublishedRow] | None = None) -> dict[str, Agreement]:
    """The agreement of every proxy for which three backbones or more have both numbers; random is left out.

    ``rows``: instead of the whole collection.
    """
    found = {}
    known = load() if rows is None else rows
    for proxy in PROXIES:
        cheap, dear = (_values(known, table, proxy.metric) for table in (proxy.cheap, proxy.dear))
        if (one := agreement(cheap, dear)) is not None:
            found[proxy.name] = one
    return found


def _values(rows: Sequence[PublishedRow], table: tuple[str, str], metric: str) -> dict[str, float]:
    """Backbone -> value in one table of COCO; the first source counts where several have the row."""
    values: dict[str, float] = {}
    for row in rows:
        if (row["detector"], row["schedule"]) != table or not row["dataset"].startswith("COCO 2017 ("):
            continue
        value = _metric(row, metric)
        if row["init"] != "random" and value is not None and not row.get("setup"):
            values.setdefault(str((row["paper"], identity(row))), value)
    return values


def _metric(row: PublishedRow, metric: str) -> float | None:
    """Box AP: ``APbb`` where masks stand beside it, ``AP`` otherwise."""
    value = row["metrics"].get(metric, row["metrics"].get("AP"))
    return None if value is None else float(value)
