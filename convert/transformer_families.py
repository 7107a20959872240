"""The rows of the table for vision transformers and ConvNeXts."""

from __future__ import annotations

from convert.family import FLAT, Family, Place, in_wrappers
from convert.preprocessing import HALF

AVERAGE = "the teacher, a running average of the student, is taken; --encoder student takes the other"
_DECODER = in_wrappers("decoder_embed", "decoder_blocks")

TRANSFORMER_FAMILIES: dict[str, Family] = {
    "vit": Family(
        "ViT in timm's names: timm, DeiT, DINOv2, DINOv3, and the released encoders of MAE, DINO, iBOT",
        {"encoder": Place(FLAT, "vit"), "ema": Place(("state_dict_ema", "model_ema"), "vit")},
        "",
        lacks=_DECODER,
    ),
    "mae": Family(
        "MAE pretraining checkpoint (encoder and decoder)",
        {"encoder": Place(FLAT, "vit")},
        has=(_DECODER,),
        note="the decoder is left behind",
    ),
    "dino-vit": Family(
        "DINO and iBOT pretraining checkpoint",
        {"teacher": Place(("teacher.backbone",), "vit"), "student": Place(("student.backbone",), "vit")},
        "teacher",
        note=AVERAGE,
    ),
    "dinov2-training": Family(
        "DINOv2 training checkpoint",
        {"teacher": Place(("model.teacher.backbone",), "vit"), "student": Place(("model.student.backbone",), "vit")},
        "teacher",
        note=AVERAGE,
    ),
    "moco-v3-vit": Family(
        "MoCo v3 ViT, official and this project's",
        {
            "query": Place(in_wrappers("base_encoder"), "vit"),
            "key": Place(in_wrappers("momentum_encoder"), "vit"),
        },
        "query",
        heads={384: 12},
    ),
    "supervised-vit": Family(
        "this project's supervised ViTs", {"encoder": Place(in_wrappers("encoder_q"), "vit")}, heads={384: 12}
    ),
    "vit-torchvision": Family("torchvision vit_b_16 and its like", {"encoder": Place(FLAT, "vit of torchvision")}),
    "vit-huggingface": Family(
        "transformers ViTModel, ViTMAE, Dinov2Model, with or without registers",
        {
            "encoder": Place(
                ("", "vit", "dinov2", "dinov2_with_registers", "model", "state_dict"), "vit of transformers"
            )
        },
    ),
    "dinov3-timm": Family("DINOv3 ViTs in the names of timm's Eva", {"encoder": Place(FLAT, "dinov3 of timm")}),
    "dinov3-huggingface": Family(
        "transformers DINOv3ViTModel",
        {"encoder": Place(("", "model", "dinov3_vit", "state_dict"), "dinov3 of transformers")},
    ),
    "google-vit": Family(
        "ViT of google's and timm's AugReg weights, in timm's names",
        {"encoder": Place(FLAT, "vit")},
        same_keys_as="vit",
        preprocessing=HALF,
        note="these weights see images with mean and std 0.5",
    ),
    "detectron2-vit": Family(
        "ViT backbone of this project (backbone.net.*)", {"encoder": Place(in_wrappers("backbone.net"), "vit")}
    ),
    "convnext": Family("ConvNeXt V1 and V2 in the authors' names, SparK, DINOv3", {"encoder": Place(FLAT, "convnext")}),
    "convnext-timm": Family("timm convnext*, convnextv2*", {"encoder": Place(FLAT, "convnext of timm")}),
    "convnext-torchvision": Family("torchvision convnext_*", {"encoder": Place(FLAT, "convnext of torchvision")}),
    "convnext-huggingface": Family(
        "transformers ConvNextModel, ConvNextV2Model",
        {"encoder": Place(("", "convnext", "convnextv2", "model", "state_dict"), "convnext of transformers")},
    ),
    "dinov3-convnext-huggingface": Family(
        "transformers DINOv3ConvNextModel",
        {"encoder": Place(("", "model", "state_dict"), "dinov3 convnext of transformers")},
    ),
    "dino-convnext": Family(
        "DINO pretraining checkpoint of a ConvNeXt",
        {"teacher": Place(("teacher.backbone",), "convnext"), "student": Place(("student.backbone",), "convnext")},
        "teacher",
        note=AVERAGE,
    ),
    "swin": Family("Swin in the authors' names; timm before 0.9", {"encoder": Place(FLAT, "swin")}),
    "moby": Family(
        "MoBY pretraining checkpoint",
        {"query": Place(("model.encoder",), "swin"), "key": Place(("model.encoder_k",), "swin")},
        "query",
        has=(("model.encoder_k",),),
    ),
    "simmim": Family(
        "SimMIM pretraining checkpoint of a Swin",
        {"encoder": Place(("model.encoder", "encoder"), "swin")},
        has=(("model.decoder", "decoder"),),
        lacks=("model.encoder_k",),
        note="the decoder is left behind",
    ),
    "esvit": Family(
        "EsViT pretraining checkpoint of a Swin",
        {
            "teacher": Place(("teacher", "teacher.backbone"), "swin"),
            "student": Place(("student", "student.backbone"), "swin"),
        },
        "teacher",
        note=AVERAGE,
    ),
    "swin-timm": Family("timm swin_*", {"encoder": Place(FLAT, "swin of timm")}),
    "swin-torchvision": Family("torchvision swin_t, swin_s, swin_b", {"encoder": Place(FLAT, "swin of torchvision")}),
    "swin-huggingface": Family(
        "transformers SwinModel", {"encoder": Place(("", "swin", "model", "state_dict"), "swin of transformers")}
    ),
    "detectron2-convnext": Family(
        "ConvNeXt backbone of this project (backbone.bottom_up.*)",
        {"encoder": Place(in_wrappers("backbone.bottom_up"), "convnext")},
    ),
    "detectron2-swin": Family(
        "Swin backbone of this project (backbone.bottom_up.*)",
        {"encoder": Place(in_wrappers("backbone.bottom_up"), "swin")},
    ),
}
