"""A region proposal network alone, and Fast R-CNN on its proposals: trained, scored and resumed by both engines."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import UserError
from tests.transfer.engines.detectron2_alone import register_datasets, train_with_detectron2_alone
from tests.transfer.engines.engine_cases import GIVEN_PROPOSALS
from transfer.data.catalog import get_dataset
from transfer.engines.training.proposals import read_proposals
from transfer.evaluate.detections import Detections
from transfer.fine_tuning.checks import Datasets, check_proposals

ALONE = {"MODEL.META_ARCHITECTURE": "ProposalNetwork", "MODEL.RPN.POST_NMS_TOPK_TEST": 50}
ENGINES = ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)]


def drawn_proposals(dataset: str, count: int = 30) -> dict[str, Any]:
    """A file of proposals as Detectron2 writes it: around the objects and elsewhere, unsorted, with equal logits."""
    rng = np.random.RandomState(2)
    content: dict[str, Any] = {"ids": [], "boxes": [], "objectness_logits": [], "bbox_mode": 0}
    for record in get_dataset(dataset).records():
        corner = rng.uniform(-5, 60, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(1, 50, (count, 2))], axis=1)
        for row, annotation in enumerate(record["annotations"]):
            x, y, w, h = annotation["bbox"]
            boxes[row] = [x + 1, y, x + w, y + h + 1]
        content["ids"].append(record["image_id"])
        content["boxes"].append(boxes.astype(np.float32))
        content["objectness_logits"].append(rng.normal(0, 2, count).round(1).astype(np.float32))
    return content


@pytest.fixture(scope="module")
def proposal_file(tiny_coco: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("proposals") / "box_proposals.pkl"
    path.write_bytes(pickle.dumps(drawn_proposals(tiny_coco)))
    return str(path)


def given(file: str) -> dict[str, Any]:
    """Settings of a detector that takes the proposals of ``file``."""
    files = {"DATASETS.PROPOSAL_FILES_TRAIN": (file,), "DATASETS.PROPOSAL_FILES_TEST": (file,)}
    limits = {"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 25, "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 20}
    return {**GIVEN_PROPOSALS, **files, **limits}


def command(folder: Path, data: str, engine: str, settings: dict[str, Any], base: Any) -> list[str]:
    """A command of train_net.py with every setting of the config ``base`` that the tests changed."""
    head = ["transfer/train_net.py", "--config-file", str(folder / "config.yaml"), "--init", "random"]
    from transfer.config import dump_config

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump_config(base))
    words = [str(word) for pair in settings.items() for word in pair]
    return [*head, "--engine", engine, *words, "OUTPUT_DIR", str(folder / "run")]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_proposal_network_trains_scores_and_resumes(
    engine: str, tmp_path: Path, tiny_config: Callable[..., Any], tiny_coco: str, run_cli: Callable[..., Any]
) -> None:
    cfg = tiny_config(ALONE, {"TEST.EVAL_PERIOD": 2})
    run_cli(command(tmp_path, tiny_coco, engine, {"SOLVER.MAX_ITER": 4}, cfg), check=0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["metrics"]) == ["box_proposals"]
    keys = [f"AR{size}@{limit}" for limit in (100, 1000) for size in ("", "s", "m", "l")]
    assert list(result["metrics"]["box_proposals"]) == keys
    assert 0 < result["metrics"]["box_proposals"]["AR@1000"] < 100
    assert result["evaluator"] == "proposals/recall-1000"
    assert [entry["iteration"] for entry in result["history"]] == [2, 4]
    again = command(tmp_path, tiny_coco, engine, {"SOLVER.MAX_ITER": 5}, cfg)
    run_cli([*again[:5], "--resume", "--allow-change", "SOLVER.MAX_ITER", *again[5:]], check=0)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["iterations"] == 5


def test_its_detections_are_a_file_of_proposals(
    tmp_path: Path, tiny_config: Callable[..., Any], tiny_coco: str, engine: Any
) -> None:
    cfg = tiny_config(ALONE, {"SOLVER.MAX_ITER": 2})
    engine.train(cfg, tmp_path)
    found = engine.detect(cfg, tmp_path / "model_final.pth", tiny_coco)
    assert found.are_proposals
    found.save(tmp_path / "detections_0.npz")
    stored = read_proposals(tmp_path / "detections_0.npz", found.image_ids)
    for index, image_id in enumerate(found.image_ids):
        rows = np.flatnonzero(found.image_index == index)
        boxes, logits = stored[str(image_id)]
        assert len(rows) == len(boxes) > 5
        order = np.argsort(-found.scores[rows], kind="stable")
        assert np.array_equal(np.sort(logits)[::-1], logits)
        assert np.array_equal(logits, found.scores[rows][order])
    fast = tiny_config(given(str(tmp_path / "detections_0.npz")), {"SOLVER.MAX_ITER": 2})
    engine.train(fast, tmp_path / "fast")
    assert not any("proposal_generator" in name for name in _weights(tmp_path / "fast"))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from runtime.torch_files import load_torch

    model: dict[str, torch.Tensor] = load_torch(folder / "model_final.pth")["model"]
    return model


@pytest.mark.detectron2
@pytest.mark.parametrize("kind", ["alone", "fast", "fast with masks, cropped"])
def test_twenty_iterations_equal_detectron2_with_its_own_loader(
    kind: str,
    tmp_path: Path,
    tiny_config: Callable[..., Any],
    tiny_coco: str,
    proposal_file: str,
    engine: Any,
    detectron2_engine: Any,
) -> None:
    length = {"SOLVER.MAX_ITER": 20, "DATALOADER.NUM_WORKERS": 1, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
    length["SOLVER.BASE_LR"] = 1e-3  # the usual rate diverges on some processors, and every score is 0 then
    if kind == "fast with masks, cropped":
        length |= {"MODEL.MASK_ON": True, "INPUT.CROP.ENABLED": True}
    cfg = tiny_config(ALONE if kind == "alone" else given(proposal_file), length)
    theirs = train_with_detectron2_alone(cfg, tmp_path / "alone")["model"]
    detectron2_engine.train(cfg, tmp_path / "around")
    engine.train(cfg, tmp_path / "embedded")
    for name in ("around", "embedded"):
        other = _weights(tmp_path / name)
        assert list(other) == list(theirs)
        assert all(torch.equal(other[key], value) for key, value in theirs.items()), name
    found = [
        one.detect(cfg, tmp_path / "embedded" / "model_final.pth", tiny_coco) for one in (engine, detectron2_engine)
    ]
    assert len(found[0]) > 20
    for field in ("image_index", "category", "boxes", "scores", "are_proposals"):
        assert np.array_equal(getattr(found[0], field), getattr(found[1], field)), field


@pytest.mark.detectron2
def test_detectron2s_own_loader_gives_the_same_proposals(
    tiny_config: Callable[..., Any], tiny_coco: str, proposal_file: str, tmp_path: Path
) -> None:
    from detectron2.data import build_detection_test_loader

    from transfer.engines.detectron2.data import as_detectron2_items
    from transfer.engines.detectron2.engine import detectron2_config
    from transfer.engines.training.batches import build_test_feed

    cfg = tiny_config(given(proposal_file))
    register_datasets([tiny_coco])
    theirs = build_detection_test_loader(detectron2_config(cfg, tmp_path), tiny_coco)
    seen = 0
    for ours, batch in zip(map(as_detectron2_items, build_test_feed(cfg, tiny_coco, 0, 1)), theirs):
        for one, other in zip(ours, batch):
            assert one["image_id"] == other["image_id"]
            assert torch.equal(one["proposals"].proposal_boxes.tensor, other["proposals"].proposal_boxes.tensor)
            assert torch.equal(one["proposals"].objectness_logits, other["proposals"].objectness_logits)
            seen += len(one["proposals"])
    assert seen > 100


def write(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content))
    return path


class _Attack:
    def __reduce__(self) -> Any:
        return print, ("executed",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: None, "its pickle holds no dict"),
        (lambda c: {"ids": c["ids"]}, "has lists ids, boxes and objectness_logits of one length"),
        (lambda c: {**c, "ids": c["ids"][1:]}, "of one length"),
        (lambda c: {**c, "bbox_mode": 4}, "bbox_mode must be 0"),
        (lambda c: {**c, "boxes": [b[:, :3] for b in c["boxes"]]}, "image 1 are not boxes P x 4 and logits P"),
        (lambda c: {**c, "boxes": [[1, 2, 3, 4]] * 8}, "image 1 are not boxes P x 4 and logits P"),
        (
            lambda c: {**c, "boxes": [b * np.nan for b in c["boxes"]]},
            "a box or logit of image 1 is not a finite number",
        ),
        (lambda c: {**c, "boxes": [b.astype(object) for b in c["boxes"]]}, "not boxes P x 4|not a file of proposals"),
        (
            lambda c: {**c, "boxes": [b.astype(np.float64) * 1e300 for b in c["boxes"]]},
            "not a finite number in float32",
        ),
        (lambda c: {**c, "boxes": [b[:, [2, 1, 0, 3]] for b in c["boxes"]]}, "a box of image 1 ends before it"),
        (lambda c: {**c, "ids": [1, *c["ids"][:-1]]}, "image 1 is listed twice"),
        (
            lambda c: {**c, **{k: [v[:0] for v in c[k]] for k in ("boxes", "objectness_logits")}},
            "no image has a proposal",
        ),
        (lambda c: {**c, "ids": [f"x{i}" for i in c["ids"]]}, r"no proposals for 8 of 8 images \(1, 2, 3 and 5 more\)"),
    ],
)
def test_a_file_that_is_none_is_one_line(
    change: Callable[[Any], Any], message: str, tiny_coco: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "p.pkl", change(drawn_proposals(tiny_coco)))
    with pytest.raises(UserError, match=message):
        read_proposals(file, get_dataset(tiny_coco).summary.image_ids)


class _Harmful:
    def __reduce__(self) -> Any:
        return exec, ("print('executed')",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.pkl", b"no pickle", "it is damaged or not a file of proposals"),
        ("p.pkl", b"", "it is damaged or not a file of proposals"),
        ("p.pkl", pickle.dumps({"ids": [1]})[:-3], "it is damaged or not a file of proposals"),
        ("p.pkl", pickle.dumps(_Harmful()), "could run code; it was not executed; make it again"),
        ("p.npz", b"PK\x03\x04", "not a readable file of proposals"),
        ("p.npz", b"", "not a readable file of proposals"),
    ],
)
def test_a_broken_file_is_called_what_it_is(
    name: str, content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_proposals(tmp_path / name)
    text = str(error.value)
    assert text.endswith("train_net.py --eval-only of the proposal network writes evaluation_0.npz")
    assert not any(word in text for word in ("checkpoint", "detections", "weights", "\n"))
    assert "executed" not in capsys.readouterr().out


def test_nothing_in_a_file_of_proposals_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="of one length"):
        read_proposals(write(tmp_path / "p.pkl", {"ids": _Attack(), "boxes": [], "objectness_logits": []}))
    assert "executed" not in capsys.readouterr().out


def test_the_older_names_and_widths_and_heights_are_read(tmp_path: Path, tiny_coco: str) -> None:
    content = drawn_proposals(tiny_coco)
    boxes = [np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1) for b in content["boxes"]]
    older = {
        "indexes": np.array(content["ids"]),
        "boxes": boxes,
        "scores": content["objectness_logits"],
        "bbox_mode": 1,
    }
    plain, same = read_proposals(write(tmp_path / "a.pkl", content)), read_proposals(write(tmp_path / "b.pkl", older))
    assert plain.keys() == same.keys()
    for image_id, (own, logits) in plain.items():
        assert np.allclose(own, same[image_id][0], atol=1e-4)
        assert np.array_equal(logits, same[image_id][1])


def test_detections_are_not_taken_for_proposals(tmp_path: Path) -> None:
    Detections([1], np.zeros(1), np.zeros(1), np.ones((1, 4)), np.ones(1)).save(tmp_path / "detections_0.npz")
    with pytest.raises(UserError, match="holds detections, not proposals"):
        read_proposals(tmp_path / "detections_0.npz")


def test_a_missing_file_is_named_before_the_run(tiny_config: Callable[..., Any]) -> None:
    cfg = tiny_config(given("nowhere.pkl"))
    with pytest.raises(UserError, match="nowhere.pkl: no such file of proposals"):
        check_proposals(cfg, Datasets.of(cfg, train=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MODEL.LOAD_PROPOSALS": True}, "LOAD_PROPOSALS True and MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals"),
        ({"MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals"}, "belong together"),
        (GIVEN_PROPOSALS, "PROPOSAL_FILES_TRAIN has 0, DATASETS.TRAIN 1"),
        ({**ALONE, "MODEL.MASK_ON": True}, "MASK_ON, KEYPOINT_ON and LOAD_PROPOSALS must be False"),
    ],
)
@pytest.mark.parametrize("engine_name", ENGINES)
def test_what_does_not_belong_together_is_named(
    settings: dict[str, Any], message: str, engine_name: str, tiny_config: Callable[..., Any]
) -> None:
    from transfer.engines import resolve_engine

    with pytest.raises(UserError, match=message):
        resolve_engine(engine_name).check(tiny_config(settings))


def test_another_file_of_proposals_is_refused_on_a_resume(
    tmp_path: Path, tiny_config: Callable[..., Any], tiny_coco: str, proposal_file: str, run_cli: Callable[..., Any]
) -> None:
    words = command(tmp_path, tiny_coco, "torchvision", {"SOLVER.MAX_ITER": 2}, tiny_config(given(proposal_file)))
    run_cli(words, check=0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["datasets"]["test"][0]["proposals"]) == 64
    other = write(tmp_path / "other.pkl", drawn_proposals(tiny_coco, count=31))
    changed = ["DATASETS.PROPOSAL_FILES_TRAIN", f"('{other}',)"]
    done = run_cli([*words[:5], "--resume", *words[5:], *changed], check=2)
    assert "DATASETS.PROPOSAL_FILES_TRAIN" in done.stderr
