"""Every spelling of every kind of network by its name."""

from __future__ import annotations

from collections.abc import Mapping

from convert.rename import RESNET_LAYOUTS, Layout, Part
from convert.spelling import Piece, Spelling
from convert.stage_spellings import STAGE_SPELLINGS
from convert.vit_spellings import VIT_SPELLINGS

AnyLayout = Layout | Spelling
AnyPart = Part | Piece  # what a name in a file stands for
LAYOUTS: Mapping[str, AnyLayout] = {
    **{layout.name: layout for layout in RESNET_LAYOUTS},
    **VIT_SPELLINGS,
    **STAGE_SPELLINGS,
}
