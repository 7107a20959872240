"""Configs: schema, bases, refusals, dumps, and every file of configs/."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from runtime.errors import UserError
from transfer.config import (
    CONFIG_FOLDER,
    changed_keys,
    config_sha256,
    default_config,
    dump_config,
    explicit_keys,
    flatten,
    load_config,
    merge_opts,
    recipe,
    unsupported_keys,
)
from transfer.config.schema import ADDED, KEYS, OWN_PREFIX, Support

CONFIGS = sorted(p.name for p in CONFIG_FOLDER.glob("*.yaml"))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_loads_and_survives_a_dump(name, tmp_path):
    cfg = load_config(name)
    again = load_config(write(tmp_path / "dump.yaml", dump_config(cfg)))
    assert flatten(again) == flatten(cfg)


@pytest.mark.parametrize("name", [c for c in CONFIGS if not c.startswith("Base_")])
def test_every_config_says_how_to_run_it(name):
    text = (CONFIG_FOLDER / name).read_text()
    assert text.startswith("# ")
    assert f"--config-file {name}" in text


def test_a_bare_base_is_found_in_the_shipped_configs(tmp_path):
    own = write(tmp_path / "mine.yaml", "_BASE_: own_R18_FPN.yaml\nSOLVER:\n  MAX_ITER: 77\n  STEPS: (60, 70)\n")
    cfg = load_config(own)
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.SOLVER.MAX_ITER) == (18, 77)
    write(tmp_path / "own_R18_FPN.yaml", "SOLVER:\n  MAX_ITER: 5\n")  # beside the file comes first
    assert load_config(write(own, "_BASE_: own_R18_FPN.yaml")).SOLVER.MAX_ITER == 5
    with pytest.raises(UserError, match=r"folder/own_R50_C4.yaml does not exist$"):
        load_config(write(own, "_BASE_: folder/own_R50_C4.yaml"))


def test_a_folder_is_named_as_such(tmp_path):
    with pytest.raises(UserError, match="is a folder; name a YAML file"):
        load_config(tmp_path)
    write(tmp_path / "config.yaml", "VERSION: 2")
    with pytest.raises(UserError, match=r"is a folder; name .*/config.yaml"):
        load_config(tmp_path)


@pytest.mark.parametrize("name", ["own_R18_FPN", "own_R50_FPN", "own_R50_C4"])
def test_configs_for_own_data_leave_the_classes_to_the_data(name):
    explicit, cfg = explicit_keys(name), load_config(name)
    assert not any("NUM_CLASSES" in key or key.startswith("DATASETS.") for key in explicit)
    assert not set(explicit) & {"INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1"}
    assert cfg.SOLVER.STEPS[-1] < cfg.SOLVER.MAX_ITER


def test_bases_merge_in_order_and_relative(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "a.yaml", "SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\nINPUT: {FORMAT: RGB}")
    write(tmp_path / "b.yaml", "SOLVER: {BASE_LR: 0.25}")
    top = write(tmp_path / "deep" / "c.yaml", "_BASE_: [../a.yaml, ../b.yaml]\nSOLVER: {MAX_ITER: 9}")
    cfg = load_config(top, ["SEED", "4"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.INPUT.FORMAT, cfg.SEED) == (0.25, 9, "RGB", 4)
    where = explicit_keys(top, ["SEED", "4"])
    assert where == {
        "SOLVER.BASE_LR": "config c.yaml",
        "SOLVER.MAX_ITER": "config c.yaml",
        "INPUT.FORMAT": "config c.yaml",
        "SEED": "command line",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER: {BASE_RL: 0.1}", "unknown key SOLVER.BASE_RL; did you mean SOLVER.BASE_LR"),
        ("MODEL: !!python/object/apply:os.system ['true']", "only plain YAML"),
        ("SEED: !!python/object/apply:eval ['1 + 1']", "only plain YAML"),
        ("_BASE_: https://example.org/x.yaml", "must be a local file"),
        ("_BASE_: c.yaml", r"circular _BASE_: c\.yaml -> c\.yaml"),
        ("_BASE_: nowhere.yaml", "does not exist"),
        ("SEED: 1\nSEED: 2", "duplicate key SEED"),
        ("- 1", "expected keys and values"),
        ("SEED: [", "not YAML"),
        ("? [SEED]\n: 1", "a key must be a plain word"),
        ("SEED: 2024-13-45", "not YAML"),
        ("VERSION: 1", "older schema"),
        ("SOLVER: {BASE_LR: high}", "SOLVER.BASE_LR"),
        ("SOLVER: 3", "SOLVER is a section"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, text, message):
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(path)
    assert "c.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.BASE_LR"], "pairs"),
        (["SEED", "1", "--resume"], "--resume must come before the KEY VALUE overrides"),
        (["SOLVER", "1"], "section"),
        (["SOLVER.BASELR", "1.0"], "did you mean SOLVER.BASE_LR"),
        (["SOLVER.BASE_LR", "1"], "SOLVER.BASE_LR"),
        (["INPUT.MIN_SIZE_TRAIN", "640"], "INPUT.MIN_SIZE_TRAIN"),
    ],
)
def test_bad_options_are_refused_by_name(opts, message):
    with pytest.raises(UserError, match=message):
        merge_opts(default_config(), opts)


def test_a_misspelt_config_name_gets_a_suggestion():
    with pytest.raises(UserError, match=r"did you mean coco_R50_FPN\.yaml"):
        load_config("coco_R50_FNP.yaml")


def test_digest_ignores_where_a_run_starts_and_goes_but_nothing_else():
    one, two = default_config(), default_config()
    merge_opts(two, ["OUTPUT_DIR", "elsewhere", "SEED", "3", "MODEL.WEIGHTS", "x.pkl"])
    assert config_sha256(one) == config_sha256(two)
    merge_opts(two, ["SOLVER.GAMMA", "0.2"])
    assert config_sha256(one) != config_sha256(two)
    assert json.loads(json.dumps(recipe(two))) == recipe(two)


def test_unsupported_keys_name_what_an_engine_must_refuse():
    cfg = default_config()
    assert changed_keys(cfg) == {}
    merge_opts(cfg, ["VIS_PERIOD", "20", "INPUT.FORMAT", "RGB", "ENGINE.ACCUMULATE", "2"])
    assert unsupported_keys(cfg) == {"VIS_PERIOD": 20}
    assert unsupported_keys(cfg, "own") == {"ENGINE.ACCUMULATE": 2}


def test_own_keys_stay_out_of_a_dump_unless_used(tmp_path):
    cfg = default_config()
    assert OWN_PREFIX.rstrip(".") not in dump_config(cfg)
    cfg.ENGINE.ACCUMULATE = 2
    assert load_config(write(tmp_path / "c.yaml", dump_config(cfg))).ENGINE.ACCUMULATE == 2


def is_own(key):
    return key.startswith(OWN_PREFIX) or key in ADDED


def test_keys_of_this_project_stay_out_of_a_recipe_unless_used():
    assert not any(key in ADDED for key in recipe(default_config()))
    cfg = load_config(CONFIGS[0], ["MODEL.VIT.DEPTH", "6"])
    assert recipe(cfg)["MODEL.VIT.DEPTH"] == 6


def test_defaults_are_detectron2s_stored_tree():
    stored = json.loads((Path(__file__).parent / "detectron2_defaults.json").read_text())
    assert {k: v for k, v in flatten(default_config()).items() if not is_own(k)} == stored


@pytest.mark.detectron2
def test_defaults_are_detectron2s_live_tree():
    from detectron2.config import get_cfg

    theirs, ours = flatten_any(get_cfg()), flatten_any(default_config())
    assert {k: v for k, v in ours.items() if not is_own(k)} == theirs
    assert {k: type(v) for k, v in theirs.items()} == {k: type(ours[k]) for k in theirs}


def flatten_any(tree, prefix=""):
    flat = {}
    for key, value in tree.items():
        flat.update(flatten_any(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


@pytest.mark.detectron2
@pytest.mark.parametrize("name", CONFIGS)
def test_a_dump_loads_in_detectron2(name, tmp_path):
    from detectron2.config import get_cfg

    cfg = load_config(name)
    theirs, file = get_cfg(), str(write(tmp_path / "dump.yaml", dump_config(cfg)))
    if any(is_own(key) for key in changed_keys(cfg)):
        with pytest.raises(KeyError, match="Non-existent config key"):
            theirs.merge_from_file(file)
        return
    theirs.merge_from_file(file)
    assert flatten(theirs) == {k: v for k, v in flatten(cfg).items() if not is_own(k)}


@pytest.mark.detectron2
def test_detectron2s_own_configs_load_to_the_same_values():
    """Every YAML of its configs/ but RetinaNet's, whose base holds a Python expression."""
    from detectron2 import model_zoo
    from detectron2.config import get_cfg

    folder = Path(model_zoo.__file__).parent / "configs"
    files = sorted(folder.rglob("*.yaml"))
    assert len(files) > 60
    for file in files:
        cfg = load_config(file)
        theirs = get_cfg()
        theirs.merge_from_file(str(file))
        assert flatten(theirs) == {k: v for k, v in flatten(cfg).items() if not is_own(k)}, file


def test_every_key_has_a_class():
    assert {key.embedded for key in KEYS.values()} == set(get_args(Support))
    assert all((key.embedded == "own") == name.startswith(OWN_PREFIX) for name, key in KEYS.items())


def test_help_needs_no_torch(repo):
    command = [sys.executable, "-X", "importtime", "transfer/train_net.py", "--help"]
    done = subprocess.run(command, cwd=repo, capture_output=True)
    assert done.returncode == 0
    assert b"torch" not in done.stderr


PROTOCOLS = {
    # FREEZE_AT, RESNETS.NORM, FPN.NORM, convs and NORM of the box head, mask NORM, steps, MAX_ITER, warm-up, PreciseBN
    "voc_R50_C4": (0, "naiveSyncBN", "", 0, "", "", (18000, 22000), 24000, 100, True),
    "voc_R50_DC5": (0, "SyncBN", "", 0, "", "", (18000, 22000), 24000, 100, True),
    "voc07_R50_C4": (0, "naiveSyncBN", "", 0, "", "", (6750, 8250), 9000, 100, True),
    "coco_R50_FPN": (0, "SyncBN", "SyncBN", 0, "", "", (60000, 80000), 90000, 1000, True),
    "coco_R50_FPN_2x": (0, "SyncBN", "SyncBN", 0, "", "", (120000, 160000), 180000, 1000, True),
    "coco_R50_FPN_4conv1fc": (0, "SyncBN", "SyncBN", 4, "SyncBN", "SyncBN", (60000, 80000), 90000, 1000, True),
    "coco_R50_C4_2x": (0, "naiveSyncBN", "", 0, "", "", (120000, 160000), 180000, 1000, True),
    "coco_R50_C4_6x": (0, "naiveSyncBN", "", 0, "", "", (480000, 520000), 540000, 1000, True),
    "lvis_R50_FPN_2x": (0, "SyncBN", "SyncBN", 0, "", "", (120000, 160000), 180000, 1000, True),
    "lvis_R50_FPN_2x_frozen": (0, "FrozenBN", "", 0, "", "", (120000, 160000), 180000, 1000, False),
    "coco_keypoints_R50_FPN_2x": (0, "SyncBN", "SyncBN", 0, "", "", (120000, 160000), 180000, 1000, True),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_the_published_ones(name):
    cfg = load_config(name)
    model, solver = cfg.MODEL, cfg.SOLVER
    assert PROTOCOLS[name] == (
        model.BACKBONE.FREEZE_AT,
        model.RESNETS.NORM,
        model.FPN.NORM,
        model.ROI_BOX_HEAD.NUM_CONV,
        model.ROI_BOX_HEAD.NORM,
        model.ROI_MASK_HEAD.NORM,
        solver.STEPS,
        solver.MAX_ITER,
        solver.WARMUP_ITERS,
        cfg.TEST.PRECISE_BN.ENABLED,
    )
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY) == (16, 0.02, 0.0001)
    assert cfg.INPUT.MIN_SIZE_TRAIN[0] == (480 if name.startswith("voc") else 640)
    assert (model.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm") == ("_C4" in name)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_configs_leave_the_input_to_the_initialisation(name):
    switches = {"INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.RESNETS.STRIDE_IN_1X1", "MODEL.WEIGHTS"}
    assert not switches & set(explicit_keys(name))


@pytest.mark.parametrize("name", [c for c in CONFIGS if not c.startswith("Base_")])
def test_the_embedded_engine_runs_every_config(name):
    from transfer.engines.torchvision.support import check_support

    check_support(load_config(name))


def test_every_key_that_an_engine_honours_is_in_a_test(repo):
    texts = "".join(path.read_text() for path in (repo / "tests").rglob("*.py"))
    choices_only = {"MODEL.ROI_KEYPOINT_HEAD.NAME"}  # has one value
    honoured = [name for name, key in KEYS.items() if key.embedded in ("used", "own", "added")]
    assert {name for name in honoured if name not in texts} <= choices_only
