"""Reader of LVIS json files (v0.5 and v1): COCO's annotations, and which classes were annotated exhaustively where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.findings import Finding
from transfer.data.coco import labels_of, load_json
from transfer.data.labels import Labels


def read_lvis(path: Path, root: Path, *, name: str = "", subset: set[Any] | None = None) -> Labels:
    """Read an LVIS file; images are ``root``/<last two parts of coco_url> (``file_name`` where there is no address).

    Category ids are sorted and mapped to 0..K-1 (for the published files: id - 1); class names are the first synonyms.
    Records also have neg_category_ids and not_exhaustive_category_ids, as contiguous ids.
    """
    name = name or str(path)
    content = load_json(path, name)
    try:
        for category in content["categories"]:
            category["name"] = (category.get("synonyms") or [category.get("name")])[0]
        missing = _missing_fields(content)
        labels = labels_of(
            content,
            name,
            file_name=lambda image: str(root / image_path(image)),
            image_fields=_federated_fields,
            subset=subset,
        )
        labels.findings[:0] = missing
        return labels
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"data set {name}: {path} is not an LVIS file (missing or malformed {error})") from error


def _missing_fields(content: dict[str, Any]) -> list[Finding]:
    """Fields that LVIS's metric reads and the file lacks; without them, its AP is not LVIS's."""
    effects = {
        ("images", "neg_category_ids"): "detections of classes that an image does not have are dropped, not counted as "
        "false: AP is too high; a COCO file is read with coco:",
        ("images", "not_exhaustive_category_ids"): "every class counts as annotated exhaustively: AP is too low",
        ("categories", "frequency"): "the classes are missing in APr, APc and APf",
    }
    findings = []
    for (kind, field), effect in effects.items():
        without = [entry["id"] for entry in content[kind] if field not in entry]
        if without:
            example = f"{'image' if kind == 'images' else 'category'} {without[0]}"
            findings.append(Finding(f"{kind} without {field}", len(without), example, effect))
    return findings


def image_path(image: dict[str, Any]) -> str:
    """``val2017/000000000139.jpg`` of an image entry: the folder and the name that its address ends with."""
    if image.get("coco_url"):
        return "/".join(image["coco_url"].split("/")[-2:])
    return str(image["file_name"])


def _federated_fields(image: dict[str, Any], contiguous: dict[Any, int]) -> dict[str, Any]:
    keys = ("neg_category_ids", "not_exhaustive_category_ids")
    return {key: [contiguous[c] for c in image.get(key, [])] for key in keys}
