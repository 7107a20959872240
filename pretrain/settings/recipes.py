"""Published recipes as data: the options that each sets. A flag on the command line overrides its recipe."""

from __future__ import annotations

from typing import Any

# The official defaults of MoCo (main_moco.py, 1911.05722 section 4): every recipe starts from these.
OFFICIAL: dict[str, Any] = {
    "method": "moco",
    "arch": "resnet50",
    "workers": 32,
    "epochs": 200,
    "batch_size": 256,
    "lr": 0.03,
    "schedule": [120, 160],
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "print_freq": 10,
    "moco_dim": 128,
    "moco_k": 65536,
    "moco_m": 0.999,
    "moco_t": 0.07,
    "mlp": False,
    "aug_plus": False,
    "cos": False,
}

V2 = {"mlp": True, "moco_t": 0.2, "aug_plus": True, "cos": True}  # 2003.04297, table 1
V3 = {
    "method": "moco_v3",
    "batch_size": 4096,
    "moco_dim": 256,
    "moco_m": 0.99,
    "moco_m_cos": True,
    "moco_t": 1.0,
    "cos": True,
    "warmup_epochs": 10.0,
}
SMALL = {"arch": "resnet18", "image_size": 64, "batch_size": 64, "moco_k": 2048, "lr": 0.06, "precision": "auto"}
SHORT = {"moco_m": 0.99, "warmup_epochs": 2.0}

RECIPES: dict[str, dict[str, Any]] = {
    "moco_v1": {},
    "moco_v2": V2,
    "moco_v2_800": {**V2, "epochs": 800},
    # IG-1B of 1911.05722: 1.25 M iterations of 1024 images, x0.9 every 62.5 k
    "moco_ig1b": {"batch_size": 1024, "lr": 0.12, "iterations": 1_250_000, "lr_every": 62_500, "lr_gamma": 0.9},
    # the official CIFAR-10 demo
    "moco_cifar10": {
        "arch": "resnet18",
        "stem": "cifar",
        "image_size": 32,
        "batch_size": 512,
        "lr": 0.06,
        "weight_decay": 5e-4,
        "cos": True,
        "moco_k": 4096,
        "moco_m": 0.99,
        "moco_t": 0.1,
        "bn_splits": 8,
        "views": "cifar",
    },
    # 300 steps: at 0.999 the key encoder would hardly have moved. And until the queue holds keys instead of its random
    # start, the loss pushes all features away from it in one direction; warm-up keeps that small (spread of the keys
    # 0.26 and rising, without it 0.04).
    "demo": {**V2, **SMALL, **SHORT, "epochs": 10, "bn_splits": 4, "workers": 2, "seed": 1},
    "mochi": {**V2, "negatives": "mochi"},
    # 2005.04966, version 1; version 2 adds --mlp --aug-plus --cos
    "pcl": {"method": "pcl", "moco_t": 0.2, "moco_k": 16384},
    # figure 3 of 1911.05722: the same pretext task over the other two mechanisms
    "memory_bank": {"method": "memory_bank", "moco_k": 65536},
    "end_to_end": {"method": "end_to_end"},
    # 1805.01978
    "instdisc": {"method": "instdisc", "moco_k": 4096},
    "instdisc_cifar10": {
        "method": "instdisc",
        "instdisc_form": "softmax",
        "arch": "resnet18",
        "stem": "cifar",
        "image_size": 32,
        "batch_size": 128,
        "weight_decay": 5e-4,
        "moco_t": 0.1,
        "schedule": [80, 120, 160],
    },
    # 1904.03436 on CIFAR-10; its steps x0.1 @120, x0.05 @160, x0.01 @200 are factors of the base rate
    "invaspread": {
        "method": "invaspread",
        "arch": "resnet18",
        "stem": "cifar",
        "image_size": 32,
        "batch_size": 128,
        "weight_decay": 5e-4,
        "moco_t": 0.1,
        "epochs": 301,
        "schedule": [120, 160, 200],
        "schedule_factors": [0.1, 0.05, 0.01],
    },
    # 2104.02057: ResNet-50 for 100 epochs on 16 GPUs, and ViT-S for 300; --lr is for 256 images of the batch
    "moco_v3": {**V3, "epochs": 100, "lr": 0.6, "weight_decay": 1e-6, "optimizer": "lars"},
    "moco_v3_vit": {
        **V3,
        "arch": "vit_small",
        "epochs": 300,
        "lr": 1.5e-4,
        "weight_decay": 0.1,
        "optimizer": "adamw",
        "warmup_epochs": 40.0,
        "moco_t": 0.2,
        "stop_grad_conv1": True,
    },
    # torchvision's reference for ResNets
    "supervised": {"method": "supervised", "lr": 0.1, "epochs": 90, "schedule": [30, 60]},
}


def describe(name: str) -> list[str]:
    """Lines with the settings of a recipe, each with official MoCo's value where it differs."""
    lines = [f"recipe {name}:"]
    for key, value in {**OFFICIAL, **RECIPES[name]}.items():
        usual = OFFICIAL.get(key)
        note = f"   (official MoCo: {usual})" if key in OFFICIAL and usual != value else ""
        lines.append(f"  --{key.replace('_', '-')} {value}{note}")
    return lines
