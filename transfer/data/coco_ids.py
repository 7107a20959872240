"""Ids and names of a COCO-style file: one type each, and what they refer to exists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from runtime.errors import UserError
from runtime.listing import listed
from transfer.data.labels import EXAMPLES

ID_FIELDS = {"images": ("id",), "categories": ("id",), "annotations": ("id", "image_id", "category_id")}


def normalise_ids(content: dict[str, Any], where: str) -> None:
    """Turn whole floats among the ids (``0.0``) into integers, in place.

    Exporters of tables write them; as keys of result files ``0.0`` and ``0`` would differ. Raises UserError for a list
    of something other than mappings, an absent id, one that is neither a whole number nor text, and a mixture.
    """
    for kind, fields in ID_FIELDS.items():
        entries = content[kind]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(f'{where} is not a COCO instances file: "{kind}" is not a list of mappings')
        for index, entry in enumerate(entries):
            for field in fields:
                if type(entry.get(field)) is not int:
                    entry[field] = _whole(entry.get(field), f"{where}: entry {index} of {kind} has {field}")
    for kind in ("images", "categories"):
        if len({type(entry["id"]) for entry in content[kind]}) > 1:
            raise UserError(f"{where}: ids of {kind} are partly numbers and partly text; use one of them")


def _whole(value: Any, what: str) -> int | str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise UserError(f"{what} {value!r}; a whole number or text is expected")


def check_ids(content: dict[str, Any], name: str) -> None:
    """Refuse duplicate image / annotation / category ids and annotations of unknown images or categories."""
    for kind in ID_FIELDS:
        counts = Counter(item["id"] for item in content[kind])
        repeated = [i for i, n in counts.items() if n > 1]
        if repeated:
            raise UserError(f"data set {name}: {len(repeated)} duplicate ids in {kind}: {listed(repeated, EXAMPLES)}")
    known = {"image_id": {i["id"] for i in content["images"]}, "category_id": {c["id"] for c in content["categories"]}}
    for field, ids in known.items():
        unknown = [a for a in content["annotations"] if a[field] not in ids]
        if unknown:
            numbers = [annotation["id"] for annotation in unknown]
            as_text = {str(id_) for id_ in ids}
            hint = "; it is a number in one list and text in the other" if str(unknown[0][field]) in as_text else ""
            raise UserError(
                f"data set {name}: {len(unknown)} annotations name an unknown {field} "
                f"(annotation ids {listed(numbers, EXAMPLES)}){hint}"
            )


def category_names(categories: Sequence[dict[str, Any]], name: str) -> list[str]:
    """The name of each category as text, each different.

    A name that several categories share gets their id (``person (id 7)``): per-class numbers are stored by name, and
    those of all but one of the categories would be lost. Raises UserError for a category without a name.
    """
    names = []
    for category in categories:
        text = category.get("name")
        if isinstance(text, bool) or not isinstance(text, str | int | float) or not _is_text(str(text)):
            raise UserError(f"data set {name}: category {category['id']} has name {text!r}; a text is expected")
        names.append(str(text))
    counts = Counter(names)
    return [f"{n} (id {c['id']})" if counts[n] > 1 else n for n, c in zip(names, categories)]


def _is_text(text: str) -> bool:
    """Whether ``text`` says something and can be written: JSON can hold half of a surrogate pair, UTF-8 cannot."""
    return bool(text.strip()) and not any("\ud800" <= letter <= "\udfff" for letter in text)
