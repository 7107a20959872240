"""Fill a feature cache while another process fills the same one: fill_cache.py CACHE IMAGE START.

Waits for the file START, then stores the maps of 60 views and reads all that are there, each of which must be whole.
"""

import sys
import time
from pathlib import Path

import torch

from transfer.engines.torchvision.feature_cache import FeatureCache

cache, image, start = map(Path, sys.argv[1:])
stat = image.stat()
state = (stat.st_size, stat.st_mtime_ns)
pixels = torch.zeros(3, 6, 8)
deadline = time.monotonic() + 60
while not start.exists() and time.monotonic() < deadline:
    time.sleep(0.001)
stored = FeatureCache(cache, {"backbone": "one"})
found = 0
for edge in range(60):
    stored.store(
        {"file_name": str(image), "file_state": state, "view": (edge, False), "image": pixels},
        {"res4": torch.full((1, 8, 30, 40), float(edge))},
    )
    for other in range(60):
        item = {"file_name": str(image), "file_state": state, "view": (other, False), "image": pixels}
        maps = stored.load(item)
        if other <= edge and maps is None:
            sys.exit(f"view {other} was lost")
        if maps is not None and not bool((maps["res4"] == other).all()):
            sys.exit(f"view {other} has the maps of another")
        found += maps is not None
print(found)
