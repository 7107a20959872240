"""The leakage check of a plan: its test sets against what its backbones are pretrained and its detectors trained on."""

from __future__ import annotations

from runtime.atomic import read_json, write_json
from runtime.errors import UserError
from transfer.comparison.leakage import DISTANCE, Leakage, compare_sets
from transfer.config import load_config
from transfer.planning.command_settings import override_words
from transfer.planning.plan import Plan, trained_inits
from transfer.planning.planned_init import PlannedInit

RESULT = "leakage.json"


def check_leakage(plan: Plan) -> None:
    """Compare, print what is shared, and write leakage.json into the plan's folder.

    Hashes of a set are kept below ``stages/leakage`` until its files change, so that a second call takes seconds.
    """
    results = [
        result
        for test, against in _comparisons(plan).items()
        for result in compare_sets(test, against, cache=plan.output / "stages" / "leakage")
    ]
    for result in results:
        if result.findings or result.reason:
            print("leakage: " + "\n  ".join([result.line(), *(finding.line() for finding in result.findings)]))
    write_json(plan.output / RESULT, {"distance": DISTANCE, "results": [result.as_record() for result in results]})


def recorded_leakage(plan: Plan) -> list[Leakage]:
    """What ``check_leakage`` found when the plan was last run; empty if it has not."""
    try:
        return [Leakage.from_record(record) for record in read_json(plan.output / RESULT).get("results", [])]
    except (TypeError, KeyError, AttributeError):
        return []  # damaged; the next run writes it anew


def _comparisons(plan: Plan) -> dict[str, list[str]]:
    """Test set -> training sets and pretraining images."""
    images = [source for init in plan.inits if (source := _pretraining_images(init))]
    comparisons: dict[str, list[str]] = {}
    for config in plan.configs:
        try:
            datasets = load_config(config.file, override_words(config.overrides)).DATASETS
        except UserError:
            continue  # its runs have failed with this error
        for test in datasets.TEST:
            against = comparisons.setdefault(test, [])
            against += [name for name in dict.fromkeys((*datasets.TRAIN, *images)) if name not in against]
    return comparisons


def _pretraining_images(init: PlannedInit) -> str | None:
    """The first argument of ``pretrain/main.py``, if it is not an option."""
    words = init.pretrainings[0].argv if init.pretrainings else ()
    return words[0] if words and not words[0].startswith("-") else None


def unchecked_inits(plan: Plan) -> list[str]:
    """Initialisations with weights whose pretraining images the plan does not name."""
    return [
        init.name
        for init in trained_inits(plan)
        if init.kind not in ("random", "pretrain") or (init.kind == "pretrain" and _pretraining_images(init) is None)
    ]
