"""Add cases to golden.json from the real Detectron2: python tests/transfer/engines/make_golden.py (needs Detectron2).

Cases that are there stay as they are; remove one from the file to make it again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path[:1] = [str(Path(__file__).resolve().parents[3])]

import torch  # noqa: E402

from tests.transfer.engines.backbone_cases import BACKBONE_CASES  # noqa: E402
from tests.transfer.engines.engine_cases import CASES, COMMON, draw_inputs, run_detectron2, summary  # noqa: E402

FILE = Path(__file__).with_name("golden.json")


def main() -> None:
    """Run every new case once."""
    torch.set_num_threads(1)
    stored = json.loads(FILE.read_text())
    for name, settings in {**CASES, **BACKBONE_CASES}.items():
        if name in stored:
            continue
        classes = {**COMMON, **settings}["MODEL.ROI_HEADS.NUM_CLASSES"]
        result = run_detectron2(settings, draw_inputs(classes))
        stored[name] = summary(result["model"], result["losses"], result["found"])
        print(name, stored[name]["losses"], [d["count"] for d in stored[name]["detections"]])
    FILE.write_text(json.dumps(stored, indent=0) + "\n")


if __name__ == "__main__":
    main()
