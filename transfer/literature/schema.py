"""What a published row must contain; ``collection`` has what the rows must hold together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

from runtime.errors import UserError
from transfer.literature.rows import TASKS, PublishedRow
from transfer.literature.setups import FIELDS, detector_parts, is_detection, protocols

REQUIRED: Mapping[str, type | tuple[type, ...]] = {
    "task": str,  # e.g. detection+instance segmentation
    "dataset": str,
    "detector": str,
    "schedule": str,
    "init": str,  # random, supervised, or the method's name
    "method": str,
    "protocol": str,  # a name in protocols.json
    "metrics": dict,
    "paper": str,  # short name; rows of one paper are one source
    "year": int,  # of the first version
    "source": str,  # paper or repository, with the table or file
    "verification": str,
}
OPTIONAL: Mapping[str, type | tuple[type, ...]] = {
    "pretrain_data": str,
    "pretrain_epochs": int,
    "weights": str,  # which of several weights of one name, e.g. MSRA or torchvision
    "pretrain": dict,  # keys of PRETRAIN
    "setup": dict,  # keys of setups.FIELDS: where the row departs from its protocol
    "printed_gaps": dict,  # metric -> the gap that the source prints
    "n_trials": int,
    "spread": dict,  # metric -> standard deviation over trials, in the metric's unit
    "runs": dict,  # metric -> the single trials
    "notes": str,
}
KEYS = (*REQUIRED, *OPTIONAL)
PRETRAIN: Mapping[str, tuple[type, float, float]] = {  # name -> (type, lowest, highest)
    "negatives": (int, 1, 1e9),
    "temperature": (float, 1e-4, 10.0),
    "momentum": (float, 0.0, 1.0),
    "batch": (int, 1, 1e6),
}
COUNTS = {"n_trials": 10_000, "pretrain_epochs": 1_000_000}  # -> the highest; both are 1 at least
SETUP_NUMBERS: Mapping[str, tuple[type, float, float]] = {  # fields that are numbers; lr may be a word, too
    "lr": (float, 1e-9, 1e3),
    "weight_decay": (float, 0.0, 10.0),
    "batch": (int, 1, 1e6),
    "frozen_stages": (int, 0, 100),
}
WORDS_OR_NUMBERS = ("lr", "frozen_stages")  # e.g. searched
SETUP_SWITCHES = ("precise_bn", "test_augmentation")
TASK_NAMES = (
    *("detection", "detection+instance segmentation", "low-data detection+instance segmentation"),
    *("instance segmentation", "semantic segmentation", "keypoint detection", "dense pose"),
    *("ImageNet linear classification", "ImageNet end-to-end fine-tune"),
    *("fine-grained classification fine-tune", "pre-training cost"),
)
DATASETS = (*(word for words in TASKS.values() for word in words), "iNaturalist")  # that a name must begin with
LONGEST = 500  # characters of a text
VERIFICATIONS = ("paper-screenshot", "paper-text", "official-repo", "third-party-repo", "third-party")
PERCENT = {
    *("AP", "AP50", "AP75", "mIoU", "top1", "imagenet_linear_top1", "APbb_TTA", "APbb_rare", "APmk_rare"),
    *(f"AP{kind}{iou}" for kind in ("bb", "mk", "kp", "dp") for iou in ("", "50", "75")),
}
SCALES: Mapping[str, tuple[float, float]] = {  # metric -> (lowest, highest) value
    **dict.fromkeys(PERCENT, (0.0, 100.0)),
    "train_s_per_iter": (0.0, 60.0),  # seconds
    "train_s_per_im": (0.0, 60.0),
    "inference_s_per_im": (0.0, 60.0),
    "train_mem_GB": (0.0, 200.0),
    "pretrain_mem_GB": (0.0, 200.0),
    "pretrain_hours": (0.0, 1e5),
}
FIRST_YEAR = 2012
VOC_METRICS = ("AP", "AP50", "AP75")
BOXES_ALONE = ("Faster R-CNN", "RetinaNet")  # detectors that have no masks


def row_errors(row: Any) -> list[str]:
    """What is wrong with one row; [] when it is valid."""
    if not isinstance(row, dict):
        return ["is not a JSON object"]
    errors = [f"needs {key!r}" for key in REQUIRED if key not in row]
    errors += [f"{shown(key)} is not a key of a row" for key in row if key not in KEYS]
    for key, kind in (*REQUIRED.items(), *OPTIONAL.items()):
        if key in row and (not isinstance(row[key], kind) or isinstance(row[key], bool) or row[key] in ("", {})):
            errors.append(f"{key!r} must be a non-empty {getattr(kind, '__name__', kind)}, not {shown(row[key])}")
    return errors or [*_text_errors(row), *_setup_errors(row)] or [*_word_errors(row), *_number_errors(row)]


def shown(value: Any) -> str:
    """A value of a file as a message quotes it: escaped, and cut where it is long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _text_errors(row: PublishedRow) -> Iterator[str]:
    """Texts are one line that can be printed: what a terminal obeys, or what looks like other text, is refused."""
    texts = {key: value for key, value in row.items() if isinstance(value, str)}
    texts |= {f"setup {name}": value for name, value in row.get("setup", {}).items() if isinstance(value, str)}
    for name, text in texts.items():
        if not text.isprintable():
            yield f"{name!r} has a line break or a character that cannot be printed: {shown(text)}"
        elif text != " ".join(text.split()):
            yield f"{name!r} has spaces at an end or two in a row: {shown(text)}"
        elif len(text) > LONGEST:
            yield f"{name!r} has {len(text)} characters, more than {LONGEST}"


def _setup_errors(row: PublishedRow) -> Iterator[str]:
    for name, value in row.get("setup", {}).items():
        if name not in FIELDS:
            yield f"setup {shown(name)} is not one of {', '.join(FIELDS)}"
        elif name in SETUP_SWITCHES:
            if not isinstance(value, bool):
                yield f"setup {name!r} must be true or false, not {shown(value)}"
        elif isinstance(value, str) and value and (name in WORDS_OR_NUMBERS or name not in SETUP_NUMBERS):
            continue
        elif name not in SETUP_NUMBERS:
            yield f"setup {name!r} must be a text, not {shown(value)}"
        elif not _is_within(value, *SETUP_NUMBERS[name]):
            yield f"setup {name!r} is {shown(value)}, not {_wanted(*SETUP_NUMBERS[name])}"


def _word_errors(row: PublishedRow) -> Iterator[str]:
    if row["protocol"] not in protocols():
        yield f"protocol {shown(row['protocol'])} is not described in protocols.json"
    if row["verification"] not in VERIFICATIONS:
        yield f"verification must be one of {', '.join(VERIFICATIONS)}, not {shown(row['verification'])}"
    if row["task"] not in TASK_NAMES:
        yield f"task must be one of {', '.join(TASK_NAMES)}, not {shown(row['task'])}"
    if not row["dataset"].startswith(DATASETS):
        yield f"dataset must begin with one of {', '.join(DATASETS)}, not with {shown(row['dataset'])}"
    if is_detection(row) and not detector_parts(row["detector"]).architecture:
        yield f"detector {shown(row['detector'])} begins with no name in setups.ARCHITECTURES"


def _number_errors(row: PublishedRow) -> Iterator[str]:
    if not FIRST_YEAR <= row["year"] <= date.today().year:
        yield f"year {shown(row['year'])} is not from {FIRST_YEAR} to {date.today().year}"
    for key, highest in COUNTS.items():
        if key in row and not 1 <= row[key] <= highest:
            yield f"{key!r} is {shown(row[key])}, not from 1 to {highest}"
    for name, value in row.get("pretrain", {}).items():
        if name not in PRETRAIN:
            yield f"pretrain {shown(name)} is not one of {', '.join(PRETRAIN)}"
        elif not _is_within(value, *PRETRAIN[name]):
            yield f"pretrain {name!r} is {shown(value)}, not {_wanted(*PRETRAIN[name])}"
    yield from _metric_errors(row)
    for key in ("printed_gaps", "spread"):
        for name, value in row.get(key, {}).items():
            if name not in row["metrics"] or not _is_within(value, float, 1e-9 if key == "spread" else -1e5, 1e5):
                yield f"{key} {shown(name)}: {shown(value)} is not a number for a metric of this row"
    yield from _run_errors(row)


def _metric_errors(row: PublishedRow) -> Iterator[str]:
    metrics, wrong = row["metrics"], []
    for name, value in metrics.items():
        if name not in SCALES:
            wrong.append(f"metric {shown(name)} has no known scale")
        elif not _is_within(value, float, *SCALES[name]):
            low, high = SCALES[name]
            wrong.append(f"metric {name!r} is {shown(value)}, not a number from {low:g} to {high:g}")
    yield from wrong
    if wrong:
        return
    per_cent = [value for name, value in metrics.items() if name in PERCENT]
    if per_cent and 0 < max(per_cent) <= 1:
        yield f"metrics are per cent: {shown(metrics)} would be below 1 %"
    for kind in ("AP", "APbb", "APmk", "APkp", "APdp"):
        easier = metrics.get(f"{kind}50", 100.0)
        yield from (
            f"metric {name!r} is {metrics[name]}, more than {kind}50, which is {easier}"
            for name in (kind, f"{kind}75")
            if metrics.get(name, 0.0) > easier
        )
    voc = row["dataset"].startswith("VOC")
    foreign = [name for name in metrics if name.startswith("AP") and (name in VOC_METRICS) != voc]
    if foreign and is_detection(row):
        yield f"metric {foreign[0]!r}: VOC's are {', '.join(VOC_METRICS)}, those of other data APbb, APmk, APkp, APdp"
    if row["detector"].startswith(BOXES_ALONE) and any(name.startswith("APmk") for name in metrics):
        yield f"detector {shown(row['detector'])} has no masks, but the row has APmk"


def _run_errors(row: PublishedRow) -> Iterator[str]:
    for name, values in row.get("runs", {}).items():
        if name not in row["metrics"] or not isinstance(values, list) or not values:
            yield f"runs {shown(name)}: {shown(values)} is not a list of numbers for a metric of this row"
        elif not all(_is_within(value, float, *SCALES[name]) for value in values):
            yield f"runs {name!r}: {shown(values)} are not numbers of the metric's scale"
        elif abs(sum(values) / len(values) - row["metrics"][name]) > 0.051:
            yield f"runs of {name!r} do not average to {row['metrics'].get(name)}"
        elif len(values) != row.get("n_trials", len(values)):
            yield f"runs of {name!r} are {len(values)}, n_trials says {row['n_trials']}"


def _is_within(value: Any, kind: type, low: float, high: float) -> bool:
    """Whether ``value`` is a finite number from ``low`` to ``high``; an int counts as a float, a bool as neither."""
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        return False
    return low <= value <= high and (isinstance(value, int) or math.isfinite(value))


def _wanted(kind: type, low: float, high: float) -> str:
    return f"{'a whole number' if kind is int else 'a number'} from {low:g} to {high:g}"


def check(rows: Any, where: str) -> list[PublishedRow]:
    """The rows of a JSON file, checked one by one; raises UserError that names the first wrong ones."""
    if not isinstance(rows, list):
        raise UserError(f"{where} must be a JSON list of rows")
    errors = [f"row {number}: {error}" for number, row in enumerate(rows) for error in row_errors(row)]
    if errors:
        more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
        raise UserError(f"{where}: {'; '.join(errors[:3])}{more}")
    return rows
