"""Published numbers: the MoCo paper's tables come out with the paper's own brackets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import UserError
from transfer.comparison.gap import compare
from transfer.literature.protocols import Protocol, matching, protocol_of, published_matches
from transfer.literature.rows import FILE, grouped, load, select, shown_gap
from transfer.published import check_together, chosen_rows, moco_table, parse, text_table
from transfer.records.run import find_runs, read_run
from transfer.report.published_section import published_section

REPOSITORY = Path(__file__).resolve().parents[2]
# (table, initialisation, pretraining data) -> cells as printed in arXiv 1911.05722v3
TABLE_2 = {
    ("2a", "random", None): ["64.4", "37.9", "38.6"],
    ("2a", "supervised", "IN-1M"): ["81.4", "54.0", "59.1"],
    ("2a", "MoCo v1", "IN-1M"): ["81.1 (-0.3)", "54.6 (+0.6)", "59.9 (+0.8)"],
    ("2a", "MoCo v1", "IG-1B"): ["81.6 (+0.2)", "55.5 (+1.5)", "61.2 (+2.1)"],
    ("2b", "random", None): ["60.2", "33.8", "33.1"],
    ("2b", "supervised", "IN-1M"): ["81.3", "53.5", "58.8"],
    ("2b", "MoCo v1", "IN-1M"): ["81.5 (+0.2)", "55.9 (+2.4)", "62.6 (+3.8)"],
    ("2b", "MoCo v1", "IG-1B"): ["82.2 (+0.9)", "57.2 (+3.7)", "63.7 (+4.9)"],
}
TABLE_3 = {
    "end-to-end": ["79.2", "52.0", "56.6", "80.4", "54.6", "60.3"],
    "memory bank": ["79.8", "52.9", "57.9", "80.6", "54.9", "60.6"],
    "MoCo v1": ["81.1", "54.6", "59.9", "81.5", "55.9", "62.6"],
}
TABLE_5 = {
    "5a": {
        "IN-1M": ["38.5 (-0.4)", "58.9 (-0.7)", "42.0 (-0.7)", "35.1 (-0.3)", "55.9 (-0.6)", "37.7 (-0.4)"],
        "IG-1B": ["38.9 (0.0)", "59.4 (-0.2)", "42.3 (-0.4)", "35.4 (0.0)", "56.5 (0.0)", "37.9 (-0.2)"],
    },
    "5b": {
        "IN-1M": ["40.8 (+0.2)", "61.6 (+0.3)", "44.7 (+0.3)", "36.9 (+0.1)", "58.4 (+0.3)", "39.7 (+0.2)"],
        "IG-1B": ["41.1 (+0.5)", "61.8 (+0.5)", "45.1 (+0.7)", "37.4 (+0.6)", "59.1 (+1.0)", "40.2 (+0.7)"],
    },
    "5c": {
        "IN-1M": ["38.5 (+0.3)", "58.3 (+0.1)", "41.6 (+0.4)", "33.6 (+0.3)", "54.8 (+0.1)", "35.6 (+0.4)"],
        "IG-1B": ["39.1 (+0.9)", "58.7 (+0.5)", "42.2 (+1.0)", "34.1 (+0.8)", "55.4 (+0.7)", "36.4 (+1.2)"],
    },
    "5d": {
        "IN-1M": ["40.7 (+0.7)", "60.5 (+0.6)", "44.1 (+1.0)", "35.4 (+0.7)", "57.3 (+0.8)", "37.6 (+0.7)"],
        "IG-1B": ["41.1 (+1.1)", "60.7 (+0.8)", "44.8 (+1.7)", "35.6 (+0.9)", "57.4 (+0.9)", "38.1 (+1.2)"],
    },
}
LVIS = {
    "IN-1M": ["24.1 (-0.3)", "37.4 (-0.4)", "25.5 (-0.3)"],
    "IG-1B": ["24.9 (+0.5)", "38.2 (+0.4)", "26.4 (+0.6)"],
}


def cells(group, row, metrics=None) -> list[str]:
    names = metrics or group.metrics
    return [f"{row['metrics'][m]} {shown_gap(group.gap(row, m))}".strip() for m in names]


def test_table_2() -> None:
    seen = {}
    for name in ("2a", "2b"):
        (group,) = grouped(moco_table(name))
        for row in group.rows:
            seen[name, row["init"], row.get("pretrain_data")] = cells(group, row, ["AP50", "AP", "AP75"])
    assert seen == TABLE_2


def test_table_3() -> None:
    groups = sorted(grouped(moco_table("3")), key=lambda group: "dilated" not in group.detector)
    assert [group.detector for group in groups] == ["Faster R-CNN R50-dilated-C5", "Faster R-CNN R50-C4"]
    seen: dict[str, list[str]] = {}
    for group in groups:
        lines = text_table(group, gaps=False).splitlines()
        assert lines[2].split() == ["init", "AP50", "AP", "AP75"]
        for row, line in zip(group.rows, lines[3:], strict=False):
            seen.setdefault(row["init"], []).extend(line.split()[-3:])
    assert seen == TABLE_3


@pytest.mark.parametrize("name", TABLE_5)
def test_table_5(name: str) -> None:
    (group,) = grouped(select(load(), paper="MoCo v1", source=f"Table {name}"))
    seen = {row["pretrain_data"]: cells(group, row) for row in group.rows if row["init"] == "MoCo v1"}
    assert seen == TABLE_5[name]


def test_lvis_rows_of_table_6() -> None:
    """The paper's brackets are to the supervised row with frozen BN; ours are to the one that is tuned like MoCo's."""
    (group,) = grouped(select(load(), task="lvis", paper="MoCo v1", source="Table 6"))
    moco = [row for row in group.rows if row["init"] == "MoCo v1"]
    printed = {
        row["pretrain_data"]: [f"{value} ({row['printed_gaps'][name]:+.1f})" for name, value in row["metrics"].items()]
        for row in moco
    }
    assert printed == LVIS
    assert [str(group.gap(row, "APmk")) for row in moco] == ["0.9", "1.7"]
    assert "the source prints APmk -0.3, APmk50 -0.4, APmk75 -0.3" in text_table(group)


def test_lvis_gaps_of_moco_are_to_the_supervised_row_with_tuned_bn() -> None:
    groups = grouped(select(load(), task="lvis", paper="MoCo v1"))
    gaps = {
        group.schedule: str(group.gap(row, "APmk"))
        for group in groups
        for row in group.rows
        if row["init"] == "MoCo v1" and row["pretrain_data"] == "IN-1M"
    }
    assert gaps == {"1x": "-0.3", "2x": "0.9"}


def test_a_gap_is_to_the_supervised_row_of_the_same_source() -> None:
    (group,) = grouped(select(load(), task="voc07+12", paper="WXinlong/DenseCL", init="DenseCL"))
    row = next(row for row in group.rows if row["pretrain_data"] == "IN-1M")
    assert group.shown_gap(row, "AP") == "(+4.5)"  # 58.7 - 54.2, not MoCo v1's 53.5


def test_a_gap_to_another_source_says_so() -> None:
    (group,) = grouped(select(load(), task="voc07+12", paper="SynCo"))
    row = group.rows[0]
    assert group.shown_gap(row, "AP") == "(+3.7 vs MoCo v1)"
    assert "(+3.7 vs MoCo v1)" in text_table(group)


# (detector, initialisation, pretraining data) -> (box AP, mask AP) as printed in arXiv 2203.16527, Table 4
VITDET_TABLE_4 = {
    ("ViT-B", "random", None): (48.1, 42.6),
    ("ViT-B", "supervised", "IN-1M"): (47.6, 42.4),
    ("ViT-B", "supervised", "IN-21K"): (47.8, 42.6),
    ("ViT-B", "MAE", "IN-1M"): (51.2, 45.5),
    ("ViT-L", "random", None): (50.0, 44.2),
    ("ViT-L", "supervised", "IN-1M"): (49.6, 43.8),
    ("ViT-L", "supervised", "IN-21K"): (50.6, 44.8),
    ("ViT-L", "MAE", "IN-1M"): (54.6, 48.6),
}
# (detector, initialisation) -> (box AP, mask AP) as printed in arXiv 2111.06377, Table 4
MAE_TABLE_4 = {
    ("ViT-B", "supervised"): (47.9, 42.9),
    ("ViT-B", "MoCo v3"): (47.9, 42.7),
    ("ViT-B", "BEiT"): (49.8, 44.4),
    ("ViT-B", "MAE"): (50.3, 44.9),
    ("ViT-L", "supervised"): (49.3, 43.9),
    ("ViT-L", "MoCo v3"): (49.3, 44.0),
    ("ViT-L", "BEiT"): (53.3, 47.1),
    ("ViT-L", "MAE"): (53.3, 47.2),
}
# initialisation -> cells of SimSiam's Table 5 (arXiv 2011.10566): VOC07, then VOC07+12 AP50, AP, AP75; COCO box and
# mask AP
SIMSIAM_TABLE_5 = {
    "random": (35.9, 16.8, 13.0, 60.2, 33.8, 33.1, 26.4, 29.3),
    "supervised": (74.4, 42.4, 42.7, 81.3, 53.5, 58.8, 38.2, 33.3),
    "SimCLR (repro.+)": (75.9, 46.8, 50.1, 81.8, 55.5, 61.4, 37.9, 33.3),
    "MoCo v2 (repro.+)": (77.1, 48.5, 52.5, 82.3, 57.0, 63.3, 39.2, 34.3),
    "BYOL (repro.)": (77.1, 47.0, 49.9, 81.4, 55.3, 61.1, 37.9, 33.2),
    "SwAV (repro.+)": (75.5, 46.5, 49.6, 81.5, 55.4, 61.4, 37.6, 33.1),
    "SimSiam base": (75.5, 47.0, 50.2, 82.0, 56.4, 62.8, 37.9, 33.2),
    "SimSiam optimal": (77.3, 48.5, 52.5, 82.4, 57.0, 63.7, 39.2, 34.4),
}
# initialisation -> box and mask AP of DetCo's Table 4 (arXiv 2102.04803): Mask R-CNN R50-C4, COCO 1x
DETCO_TABLE_4 = {
    "InsDis": (37.7, 33.0),
    "PIRL": (37.4, 32.7),
    "SwAV": (32.9, 29.5),
    "MoCo v2": (38.9, 34.2),
    "DetCo": (39.4, 34.4),
    "DetCo+AA": (39.8, 34.7),
}


def _boxes_and_masks(row) -> tuple[float, float]:
    return row["metrics"]["APbb"], row["metrics"]["APmk"]


def test_table_4_of_vitdet_and_of_mae() -> None:
    rows = select(load(), paper="ViTDet, Li", source="Table 4")
    seen = {(r["detector"].split()[-2], r["init"], r.get("pretrain_data")): _boxes_and_masks(r) for r in rows}
    assert seen == VITDET_TABLE_4
    rows = select(load(), paper="MAE, He", source="Table 4")
    assert {(r["detector"].split()[-1][:5], r["init"]): _boxes_and_masks(r) for r in rows} == MAE_TABLE_4


def test_several_supervised_rows_are_not_merged() -> None:
    """MAE's gap in ViTDet's Table 4 is to IN-1M, its own pretraining data, and never to IN-21K."""
    rows = [row for row in select(load(), paper="ViTDet, Li", source="Table 4") if "ViT-B" in row["detector"]]
    (group,) = grouped(rows)
    assert [row.get("pretrain_data") for row in group.rows if row["init"] == "supervised"] == ["IN-1M", "IN-21K"]
    assert group.shown_gap(group.rows[-1], "APbb") == "(+3.6)"


def test_table_5_of_simsiam_and_table_4_of_detco() -> None:
    seen: dict[str, tuple[float, ...]] = {}
    for row in select(load(), paper="SimSiam", source="Table 5"):
        names = ("AP50", "AP", "AP75") if row["dataset"].startswith("VOC07") else ("APbb", "APmk")
        seen[row["init"]] = seen.get(row["init"], ()) + tuple(row["metrics"][name] for name in names)
    assert seen == SIMSIAM_TABLE_5
    rows = select(load(), paper="DetCo", source="Table 4", detector="R50-C4")
    assert {r["init"]: _boxes_and_masks(r) for r in rows} == DETCO_TABLE_4


def test_the_documents_state_how_many_rows_there_are() -> None:
    papers = len({row["paper"] for row in load()})
    docs = REPOSITORY / "docs"
    assert f"{len(load())} results from {papers} papers" in (docs / "published.md").read_text()
    assert f"{len(load())} rows with source" in (docs / "gap.md").read_text()
    assert f"{len(load())} published results" in " ".join((REPOSITORY / "README.md").read_text().split())


def test_file_is_what_is_loaded() -> None:
    assert json.loads(FILE.read_text()) == list(load())


def test_rows_of_other_protocols_never_share_a_table() -> None:
    for group in grouped(load()):
        assert {(r["protocol"], r["detector"], r["schedule"], r["dataset"]) for r in group.rows} == {
            (group.protocol, group.detector, group.schedule, group.dataset)
        }
        assert text_table(group).splitlines()[1].endswith(f"protocol: {group.protocol}")


def test_own_runs_are_matched_by_protocol(store) -> None:
    flat = {
        "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"],
        "DATASETS.TEST": ["voc_2007_test"],
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.NORM": "SyncBN",
        "MODEL.RESNETS.RES5_DILATION": 1,
        "MODEL.MASK_ON": False,
        "SOLVER.IMS_PER_BATCH": 16,
        "TEST.PRECISE_BN.ENABLED": True,
    }
    root = store(init="moco", flat=flat, iterations=24000)
    own = protocol_of(read_run(root / "toy" / "moco" / "seed0").record)
    exact, _ = matching(load(), own)
    assert [(g.dataset[:8], g.detector, g.schedule, g.protocol) for g in exact] == [
        ("VOC07+12", "Faster R-CNN R50-C4", "24k", "moco")
    ]
    other = Protocol(own.dataset, "Faster R-CNN R18-C4", own.schedule, own.heads)
    exact, nearest = matching(load(), other)
    assert exact == []
    assert any(
        differs == ["detector (Faster R-CNN R18-C4 here, Faster R-CNN R50-C4 published)"] for _, differs in nearest
    )


def test_command_line(run_cli) -> None:
    done = run_cli(["transfer/published.py", "--task", "voc", "--detector", "R50-C4"], check=0)
    assert "MoCo v1 IN-1M, 200 ep" in done.stdout
    assert "55.9 (+2.4)" in done.stdout
    assert "no published row" in run_cli(["transfer/published.py", "--detector", "R7"], check=2).stderr
    assert run_cli(["transfer/published.py", "--task", "nonsense"]).returncode == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--html", "a.html", "--csv", "a.csv"], "--html and --csv are two tasks"),
        (["--list", "--add", "a.json"], "--list and --add are two tasks"),
        (["--html", "a.html", "--task", "voc"], "--html does not use --task"),
        (["--add", "a.json", "--paper", "x"], "--add does not use --paper"),
        (["--csv", "a.csv", "--sources"], "--csv does not use --sources"),
    ],
)
def test_an_option_without_effect_is_refused(options: list[str], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        check_together(parse(options))
    assert not list(tmp_path.iterdir())


def test_a_table_is_not_another_that_begins_with_its_number() -> None:
    assert {row["paper"] for row in chosen_rows(parse(["--paper", "DetCo", "--table", "13"]))} == {"DetCo"}
    assert chosen_rows(parse(["--paper", "DetCo", "--table", "1"])) == []  # neither 10, 11 nor 13
    parts = chosen_rows(parse(["--paper", "MoCo v1", "--table", "5"]))  # 5a to 5d
    assert {row["source"][-8:] for row in parts} >= {"Table 5a", "Table 5d"}


def test_published_initialisations_of_a_plan_choose_the_rows(store) -> None:
    flat = {
        "DATASETS.TRAIN": ["coco_2017_train"],
        "DATASETS.TEST": ["coco_2017_val"],
        "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.NORM": "SyncBN",
        "MODEL.MASK_ON": True,
        "SOLVER.IMS_PER_BATCH": 16,
        "TEST.PRECISE_BN.ENABLED": True,
    }
    root = store(init="moco", flat=flat, iterations=90000)
    tables = compare(list(find_runs(root)), {})
    wanted = [{"init": "MoCo v1", "pretrain_data": "IG-1B"}]
    body = published_section(published_matches(tables, wanted)).html.source
    assert "MoCo v1 IG-1B" in body
    assert "38.9 (0.0)" in body
    assert "MoCo v1 IN-1M" not in body
    assert "DetCo" in published_section(published_matches(tables)).html.source


def test_report_names_the_paper_of_a_gap_to_another_source(store) -> None:
    flat = {
        "DATASETS.TRAIN": ["voc_2007_trainval", "voc_2012_trainval"],
        "DATASETS.TEST": ["voc_2007_test"],
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.NORM": "SyncBN",
        "MODEL.MASK_ON": False,
        "SOLVER.IMS_PER_BATCH": 16,
        "TEST.PRECISE_BN.ENABLED": True,
    }
    tables = compare(list(find_runs(store(init="moco", flat=flat, iterations=24000))), {})
    body = published_section(published_matches(tables, [{"init": "SynCo"}])).html.source
    assert "57.2 (+3.7 vs MoCo v1)" in body
