"""The same check against independent models: torchvision's ResNet, and Detectron2's loader and ResNet.

Detectron2 is optional; it is imported only on request.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from convert.backbone import Backbone
from convert.rename import DETECTRON2, TORCHVISION
from convert.verify import IMAGE_SIZE, STAGES, detectron2_forward, torchvision_forward
from runtime.errors import UserError


def _image() -> Tensor:
    return torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


def _agree(name: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    worst = max(float((ours[s] - theirs[s]).abs().max()) for s in STAGES)
    if worst != 0.0:
        raise UserError(f"the converted backbone differs from {name}'s model: max |diff| {worst}")
    return f"checked against {name}: max |diff| {worst} in {', '.join(STAGES)}"


def against_torchvision(backbone: Backbone) -> str:
    """Load the weights, under torchvision's names, strictly into torchvision's own ResNet; all stages must be equal."""
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    arch = backbone.resnet("--against is")
    if (arch.stem, arch.res2) != (64, 256 if arch.bottleneck else 64):
        raise UserError(f"torchvision has no ResNet as wide as {arch.name}; leave out --against torchvision")
    block = Bottleneck if arch.bottleneck else BasicBlock
    net = ResNet(block, list(arch.blocks), groups=arch.groups, width_per_group=arch.width // arch.groups)  # type: ignore[arg-type]
    weights = {
        TORCHVISION.format(p): torch.tensor(a) for n, a in backbone.tensors.items() if (p := DETECTRON2.parse(n))
    }
    net.fc = nn.Identity()  # type: ignore[assignment]
    net.load_state_dict(weights, strict=True)
    stride_in_1x1 = backbone.preprocessing.stride_in_1x1
    for module in net.modules():
        if stride_in_1x1 and isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    with torch.no_grad():
        x = _image()
        net.eval()
        theirs = {"stem": net.maxpool(net.relu(net.bn1(net.conv1(x))))}
        for index in range(4):
            theirs[f"res{index + 2}"] = net.get_submodule(f"layer{index + 1}")(theirs[STAGES[index]])
    ours = torchvision_forward(weights, arch, stride_in_1x1)(_image())
    return _agree("torchvision", ours, theirs)


def against_detectron2(backbone: Backbone) -> str:
    """Write the .pkl to a temporary folder, load it with Detectron2's checkpointer into its ResNet, compare all."""
    architecture = backbone.resnet("--against is")
    try:
        import detectron2
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.config import get_cfg
        from detectron2.modeling import build_backbone
    except ImportError as error:
        raise UserError(
            f"Detectron2 is not installed in {torch.__file__.split('/lib/')[0]}; leave out --against"
        ) from error
    from convert.backbone_file import write_backbone

    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = list(STAGES)
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list([item for pair in backbone.config.items() for item in pair])
    model = build_backbone(cfg).eval()
    with tempfile.TemporaryDirectory() as folder:
        DetectionCheckpointer(model).load(str(write_backbone(backbone, Path(folder) / "backbone")[0]))
    weights = {name: torch.tensor(array) for name, array in backbone.tensors.items()}
    loaded = model.state_dict()
    if lost := [n for n in weights if n not in loaded or not torch.equal(loaded[n], weights[n])]:
        raise UserError(f"Detectron2 does not take {len(lost)} of {len(weights)} tensors, first {lost[0]}")
    with torch.no_grad():
        theirs = model(_image())
    ours = detectron2_forward(weights, architecture, backbone.preprocessing.stride_in_1x1)(_image())
    return _agree(f"detectron2 {detectron2.__version__}", ours, theirs)


REFERENCES: dict[str, Callable[[Backbone], str]] = {
    "detectron2": against_detectron2,
    "torchvision": against_torchvision,
}
