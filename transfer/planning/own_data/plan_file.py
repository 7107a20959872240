"""Writes a plan as YAML in which every line has the reason for its value above it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convert.architecture import Architecture
from transfer.planning.own_data.detector import Choice, Detector
from transfer.planning.own_data.request import RANDOM, SUPERVISED, Request
from transfer.planning.own_data.schedule import DROPS, WARMUP, Schedule, precise_batches
from transfer.planning.placeholders import NAME

WIDTH = 118
HEAD = """A plan made for these data and this machine; it is an ordinary plan. Edit it and run
  {run}
again: what is finished and still wanted is kept."""


@dataclass(frozen=True)
class Draft:
    """Everything that a plan is written from. ``facts``: lines on data, machine and probe for its head."""

    request: Request
    architecture: Architecture
    detector: Detector
    schedule: Schedule
    facts: Sequence[str]
    run: str  # the command that runs the plan

    @property
    def config_name(self) -> str:
        """The name of the table of all labels."""
        return str(self.detector.config.value).removesuffix(".yaml")

    @property
    def seconds(self) -> dict[str, float]:
        """Config -> predicted seconds of one of its runs."""
        schedule = self.schedule
        fraction = {self.fraction_name: schedule.fraction_seconds} if schedule.fraction else {}
        return {self.config_name: schedule.seconds, **fraction}

    @property
    def fraction_name(self) -> str:
        """The name of the table of a part of the labels."""
        return f"{self.config_name}-{self.schedule.fraction:g}"


def plan_text(draft: Draft) -> str:
    """The YAML of the plan."""
    request, schedule = draft.request, draft.schedule
    lines = [*_comment(HEAD.format(run=draft.run)), *_comment(f"Made by: {request.command}")]
    for fact in draft.facts:
        lines += _comment(fact)
    name = request.output.name if NAME.fullmatch(request.output.name) else "own"
    lines += ["", *_line("name", name, "the title of the report")]
    lines += _line(
        "output", str(request.output), "everything is written here; paths are relative to the working folder"
    )
    if schedule.short:
        lines += _line("limits", schedule.short + ".", "the report's first paragraph: what these runs cannot show")
    lines += ["inits:", *_inits(draft)]
    if SUPERVISED in request.inits:
        lines += _line("supervised", SUPERVISED, "the reference that the others are compared with, besides random")
    lines += _line("random", RANDOM, "the reference without any pretraining")
    lines += ["configs:", *_config(draft, draft.config_name, schedule.steps, None)]
    if schedule.fraction:
        share = Choice(
            schedule.fraction,
            f"with {schedule.fraction:.0%} of the labels: pretraining matters more when labels are few",
        )
        steps = Choice(schedule.fraction_steps, "by the number of images that are left, as above")
        lines += _config(draft, draft.fraction_name, steps, share)
    data = [
        ("DATASETS.TRAIN", request.data, "--data; read by its name, so that no code is needed"),
        ("DATASETS.TEST", request.test, "--test; every number of the report is measured on it"),
    ]
    lines += ["overrides:"]
    for key, names, why in data:
        lines += _line(key, repr(names), why, 2)
    lines += _seeds(schedule)
    lines += _line(
        "margin", request.margin, "points of AP within which two initialisations count as equivalent (--margin)"
    )
    return "\n".join(lines) + "\n"


def _inits(draft: Draft) -> list[str]:
    lines = _line(RANDOM, {"random": True}, "no pretraining: what every other initialisation has to beat", 2)
    for name, file in draft.request.inits.items():
        lines += _line(name, {"weights": file}, f"--init; a {draft.architecture.name} by its tensors", 2)
    if SUPERVISED not in draft.request.inits:
        lines += _comment(
            f"not here: supervised pretraining. Nothing is downloaded; with a file of torchvision's weights for "
            f"{draft.architecture.name}, add --init {SUPERVISED}=FILE and another --output",
            2,
        )
    return lines


def _config(draft: Draft, name: str, steps: Choice, share: Choice | None) -> list[str]:
    config = draft.detector.config
    lines = [*_comment(config.why, 2), f"  - config: {_yaml(config.value)}"]
    lines += _line("name", name, "the title of its table", 4)
    if share is not None:
        lines += _line("data_fraction", share.value, share.why, 4)
    lines += ["    overrides:"]
    for key, choice in {**draft.detector.overrides, **schedule_settings(steps)}.items():
        value = repr(choice.value) if isinstance(choice.value, tuple) else choice.value
        lines += _line(key, value, choice.why, 6)
    return lines


def schedule_settings(steps: Choice) -> dict[str, Choice]:
    """The keys that a number of steps sets."""
    length = int(steps.value)
    drops = tuple(sorted({min(max(1, round(share * length)), length - 1) for share in DROPS}))
    return {
        "SOLVER.MAX_ITER": steps,
        "SOLVER.STEPS": Choice(drops, f"the rate drops tenfold at {DROPS[0]:.0%} and {DROPS[1]:.0%} of the schedule"),
        "SOLVER.WARMUP_ITERS": Choice(
            min(WARMUP, max(1, length // 10)), "linear warm-up, at most a tenth of the schedule"
        ),
        "SOLVER.CHECKPOINT_PERIOD": Choice(
            max(50, length // 4), "a stopped run continues from the last checkpoint; four cost little"
        ),
        "TEST.EVAL_PERIOD": Choice(0, "one evaluation, at the end; a number of steps here adds a learning curve"),
        "TEST.PRECISE_BN.NUM_ITER": Choice(
            precise_batches(length), "batches for batch norm's statistics, at most a tenth of the schedule or 10"
        ),
    }


def _seeds(schedule: Schedule) -> list[str]:
    if schedule.least < schedule.most:
        rule = {"until": "decided", "min": schedule.least, "max": schedule.most}
        why = f"a seed is added until every comparison is decided. {schedule.why_seeds}"
        return _line("seeds", rule, why)
    return _line("seeds", list(range(schedule.most)), schedule.why_seeds)


def _line(key: str, value: Any, why: str, indent: int = 0) -> list[str]:
    return [*_comment(why, indent), f"{' ' * indent}{key}: {_yaml(value)}"]


def _yaml(value: Any) -> str:
    """A value in YAML's flow style; every text is quoted, whatever is in it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _comment(text: str, indent: int = 0) -> list[str]:
    """``text`` as comment lines; its line breaks are kept, longer lines are wrapped."""
    lines = []
    for paragraph in text.split("\n"):
        start = paragraph[: len(paragraph) - len(paragraph.lstrip())]
        room, current = WIDTH - indent - 2, start
        for word in paragraph.split():
            if current.strip() and len(current) + 1 + len(word) > room:
                lines.append(current)
                current = start
            current = f"{current} {word}" if current.strip() else start + word
        lines.append(current)
    return [f"{' ' * indent}# {line}" for line in lines]
