"""Converts ``argv[1]`` to ``argv[2]`` without verification and prints whether torch was imported."""

import sys

from convert.backbone_file import write_backbone
from convert.conversion import convert

write_backbone(convert(sys.argv[1], verify=False), sys.argv[2])
print("torch" in sys.modules)
