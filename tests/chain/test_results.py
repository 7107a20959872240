"""The numbers on the pages of docs/results are those of the csv files beside them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from scipy import stats


def tables(text: str) -> list[list[list[str]]]:
    """Every markdown table as rows of cells, the line below its head left out."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.M)
    split = [[[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()] for block in blocks]
    return [[rows[0], *rows[2:]] for rows in split]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def test_the_ablations(repo: Path) -> None:
    page = repo / "docs/results/ablation_pretrain_cpu.md"
    shown = [
        (head[0], row[0], row[1].replace(",", "") if len(row) == 3 else "", row[-1])
        for head, *body in tables(page.read_text())
        for row in body
        if head[-1] == "kNN"
    ]
    kept = [
        (row["table"], row["choice"], row["negatives"], f"{row['knn_mean']} ± {row['knn_std']}")
        for row in rows_of(page.with_suffix(".csv"))
    ]
    assert shown == kept
    assert len(kept) == 18


@pytest.mark.parametrize("name", ["imagenette_voc_cpu", "imagenette_voc_decides"])
def test_the_knn_columns(name: str, repo: Path) -> None:
    page = repo / f"docs/results/{name}.md"
    (table,) = [table for table in tables(page.read_text()) if table[0][-1].startswith("kNN accuracy")]
    shown = [(row[0].split(",")[0], number) for row in table[1:] for number in re.findall(r"[\d.]+", row[-1])]
    kept = [(row["init"], row["knn"]) for row in rows_of(page.with_name(f"{name}_knn.csv"))]
    assert shown
    assert sorted(shown) == sorted(kept)


def test_the_demo(repo: Path) -> None:
    (table,) = [table for table in tables((repo / "docs/demo.md").read_text()) if table[0][0] == "`--seed-offset`"]
    for offset, *cells in table[1:]:
        rows = rows_of(repo / f"docs/results/demo/seed_offset_{offset}.csv")
        ap = {row["init"]: row for row in rows if (row["task"], row["metric"]) == ("bbox", "AP")}
        assert cells[:3] == [f"{ap[init]['mean']} ± {ap[init]['std']}" for init in ("random", "moco", "supervised")]
        pairs = (("moco", "supervised"), ("moco", "random"), ("supervised", "random"))
        assert cells[3:] == [
            f"{row[key]} ({row[f'{key}_low']} to {row[f'{key}_high']}), {row[f'{key}_verdict']}"
            for init, role in pairs
            for row, key in [(ap[init], f"vs_{role}")]
        ]


def test_the_repetitions(repo: Path) -> None:
    page = repo / "docs/results/imagenette_voc_repetitions.md"
    hypotheses, values = [table for table in tables(page.read_text()) if len(table) == 4]
    rows = {(row["init"], row["metric"]): row for row in rows_of(page.with_suffix(".csv")) if row["task"] == "bbox"}
    pairs = (("moco_v2", "random"), ("supervised", "random"), ("moco_v2", "supervised"))
    assert [cells[1:] for cells in hypotheses[1:]] == [
        [
            row[f"vs_{role}_verdict"],
            f"{row[f'vs_{role}']} ({row[f'vs_{role}_low']} to {row[f'vs_{role}_high']})",
            row[f"vs_{role}_p_adjusted"],
        ]
        for init, role in pairs
        for row in [rows[init, "AP"]]
    ]
    runs, knn = (rows_of(page.with_name(f"{page.stem}_{part}.csv")) for part in ("runs", "knn"))
    names = {"random": "random", "moco_v2": "MoCo v2", "supervised": "supervised"}
    assert [cells[:-1] for cells in values[1:]] == [
        [
            shown,
            *(f"{float(run['AP']):.2f}" for run in runs if run["init"] == init),
            *(f"{rows[init, metric]['mean']} ± {rows[init, metric]['std']}" for metric in ("AP", "AP50")),
        ]
        for init, shown in names.items()
    ]
    assert [re.findall(r"[\d.]+", cells[-1]) for cells in values[1:]] == [
        [row["knn"] for row in knn if row["init"] == shown] for shown in names.values()
    ]
    ap = {init: [float(run["AP"]) for run in runs if run["init"] == init] for init in names}
    for init, role in pairs:  # the intervals are Welch's
        interval = stats.ttest_ind(ap[init], ap[role], equal_var=False).confidence_interval()
        row = rows[init, "AP"]
        found = [float(row[f"vs_{role}_{end}"]) for end in ("low", "high")]
        assert found == pytest.approx([interval.low, interval.high], abs=0.0051)


def test_the_own_sets(repo: Path) -> None:
    page = repo / "docs/results/own_sets.md"
    (table,) = [table for table in tables(page.read_text()) if table[0][-1] == "verdict"]
    assert table[1:] == [
        [
            row["set"],
            f"{row['train_images']}, {row['test_images']}",
            row["hours"],
            row["took_hours"],
            f"{row['short_side']}, {row['steps']}, {row['seeds']}",
            f"{row['predicted']}, {row['measured']} ({row['ratio']}x)",
            row["random"],
            row["moco"],
            row["difference"] + (f" ({row['low']} to {row['high']})" if int(row["seeds"]) > 1 else ""),
            row["verdict"],
        ]
        for row in rows_of(page.with_suffix(".csv"))
    ]
    assert {row["verdict"] for row in rows_of(page.with_suffix(".csv")) if row["seeds"] == "1"} == {"no verdict"}
