"""The known checkpoint families, one row each: where the encoder is, and which keys identify the family.

Names are canonical: dotted from the top of the file, without ``module.`` and ``_orig_mod.``. A row fits a checkpoint
that has its default encoder, everything in ``has`` and nothing in ``lacks``. Rows with ``same_keys_as`` cannot be
distinguished from another row by keys; --family selects them.
"""

from __future__ import annotations

from convert.family import FLAT, Family, Place
from convert.family import in_wrappers as _in
from convert.preprocessing import IMAGENET_BGR, MSRA_BGR, UNIT
from convert.transformer_families import TRANSFORMER_FAMILIES

LIGHTNING = "pytorch-lightning_version"
_VISSL_WRAPPERS = ("classy_state_dict.base_model.model.trunk.", "model_state_dict.", "model.", "state_dict.", "")
_VISSL_TRUNKS = ("", "base_model.", "trunk.", "trunk.base_model.")
_VISSL = tuple(f"{w}{t}_feature_blocks" for w in _VISSL_WRAPPERS for t in _VISSL_TRUNKS)
_BYOL = ("online_encoder.net", "learner.online_encoder.net"), ("target_encoder.net", "learner.target_encoder.net")
_DETECTOR = ("backbone.bottom_up", "backbone")

MOCO = {"query": Place(_in("encoder_q")), "key": Place(_in("encoder_k"))}
SWAV = {"encoder": Place(("", "state_dict"))}
TORCHVISION = {"encoder": Place(FLAT), "ema": Place(("state_dict_ema", "model_ema"))}
OPENSELFSUP = {
    "query": Place(_in("backbone"), copies=_in("encoder_q.0")),
    "key": Place(_in("encoder_k.0")),
}

TABLE: dict[str, Family] = {
    "moco": Family("MoCo v1 and v2, official and this project's", MOCO, "query", lacks=(LIGHTNING,)),
    "pcl": Family("PCL v1, v2", MOCO, "query", same_keys_as="moco"),
    "moco-v3": Family(
        "MoCo v3 ResNet-50",
        {"query": Place(_in("base_encoder")), "key": Place(_in("momentum_encoder"))},
        "query",
    ),
    "simsiam": Family(
        "SimSiam",
        {"encoder": Place(_in("encoder"))},
        has=(_in("predictor"),),
        lacks=_in("encoder_k", "neck"),
    ),
    "pycontrast": Family(
        "PyContrast: InstDis, MoCo, MoCo v2, PIRL, InfoMin",
        {"online": Place(("model.encoder",)), "ema": Place(("model_ema.encoder",))},
        "online",
        has=(("model.head", "model.head_jig", "contrast"),),
        lacks=("model.encoder_k", "model.neck", "model.predictor"),
    ),
    "cmc": Family(
        "PyContrast CMC",
        {"encoder": Place(("model.encoder1",))},
        has=(("model.encoder2",),),
        refused="CMC trains two half-width networks on the L and ab channels of Lab images; neither takes an RGB "
        "image. Convert another method of PyContrast (MoCo, InfoMin)",
    ),
    "pixpro": Family(
        "PixPro",
        {"query": Place(("model.encoder",)), "key": Place(("model.encoder_k",))},
        "query",
        has=(("model.encoder_k",),),
        lacks=("model.neck", "model.predictor"),
    ),
    "soco": Family(
        "SoCo",
        {"online": Place(("model.encoder",)), "ema": Place(("model_ema.encoder",))},
        "online",
        has=(("model.neck",),),
        note="FPN and head weights of SoCo are left out: a backbone file holds only the ResNet",
    ),
    "openselfsup": Family(
        "OpenSelfSup MoCo, EasyCV", OPENSELFSUP, "query", has=(_in("encoder_q.0"),), lacks=(LIGHTNING,)
    ),
    "densecl": Family("DenseCL", OPENSELFSUP, "query", same_keys_as="openselfsup"),
    "detco": Family("DetCo", OPENSELFSUP, "query", same_keys_as="openselfsup"),
    "openselfsup-byol": Family(
        "OpenSelfSup BYOL",
        {
            "online": Place(_in("backbone"), copies=_in("online_net.0")),
            "target": Place(_in("target_net.0")),
        },
        "online",
        has=(_in("online_net.0"),),
    ),
    "mmselfsup": Family(
        "mmselfsup 1.x and mmpretrain",
        {
            "online": Place(("state_dict.backbone", "backbone")),
            "key": Place(_in("encoder_k.0")),
            "target": Place(_in("target_net.0")),
        },
        "online",
        has=(("meta", "state_dict.data_preprocessor"),),
        lacks=(LIGHTNING, *_in("encoder_q", "online_net", "roi_head", "projector", "classifier", "backbone_k")),
    ),
    "instanceloc": Family(
        "InstanceLoc (mmdet detector, FPN or C4)",
        {
            "query": Place(_in("backbone"), layer4_roots=_in("roi_head.shared_head")),
            "key": Place(_in("backbone_k"), layer4_roots=_in("roi_head_k.shared_head")),
        },
        "query",
        has=(_in("roi_head"),),
        lacks=_in("encoder_q"),
        note="neck and head weights of the detector are left out: a backbone file holds only the ResNet",
    ),
    "vissl": Family("VISSL", {"encoder": Place(_VISSL)}),
    "swav": Family("SwAV", SWAV, has=(("prototypes", "projection_head", *_in("prototypes", "projection_head")),)),
    "deepcluster-v2": Family("DeepCluster v2", SWAV, same_keys_as="swav"),
    "sela-v2": Family("SeLa v2", SWAV, same_keys_as="swav"),
    "barlow-twins": Family(
        "Barlow Twins (full checkpoint, or its bare resnet50.pth)",
        {"encoder": Place(("model.backbone", "backbone", *FLAT))},
        has=(("model.bn.running_mean",), ("model.projector",)),
    ),
    "vicreg": Family(
        "VICReg, VICRegL (full checkpoint, or the bare resnet50.pth)",
        {"encoder": Place(("model.backbone", "backbone", *FLAT))},
        has=(("model.backbone",), ("model.projector",)),
        lacks=("model.bn.running_mean",),
    ),
    "dino": Family(
        "DINO ResNet-50 (full checkpoint, or the teacher's bare backbone file)",
        {"teacher": Place(("teacher.backbone", *FLAT)), "student": Place(("student.backbone",))},
        "teacher",
        has=(("teacher.backbone",), ("student.backbone",)),
    ),
    "byol-pytorch": Family(
        "BYOL in PyTorch: the whole learner, or the bare net",
        {
            "online": Place((*_in(*_BYOL[0]), *FLAT), copies=_in("net", "learner.net")),
            "target": Place(_in(*_BYOL[1])),
        },
        "online",
        has=(_in(*_BYOL[0]), _in(*_BYOL[1])),
    ),
    "simclr": Family(
        "SimCLR v1 converted to torchvision's names",
        {"encoder": Place(FLAT)},
        same_keys_as="torchvision",
        preprocessing=UNIT,
        note="SimCLR sees images in [0, 1] without mean and std",
    ),
    "simclr-v2": Family(
        "SimCLR v2 (sk0) converted to PyTorch",
        {"encoder": Place(("resnet", "state_dict", "model", ""), "simclr v2")},
        preprocessing=UNIT,
        note="SimCLR sees images in [0, 1] without mean and std",
    ),
    "lightly": Family(
        "lightly examples (backbone as nn.Sequential)",
        {
            "online": Place(_in("backbone"), "sequential"),
            "ema": Place(_in("backbone_momentum"), "sequential"),
        },
        "online",
    ),
    "lightly-benchmark": Family(
        "lightly benchmarks (Lightning)",
        {
            "online": Place(_in("backbone")),
            "key": Place(_in("key_backbone")),
            "teacher": Place(_in("teacher_backbone")),
        },
        "online",
        has=(_in("projection_head", "online_classifier"),),
        lacks=("meta", *_in("encoder_q", "classifier", "momentum_backbone", "student_backbone")),
    ),
    "lightly-dino": Family(
        "lightly benchmark of DINO, whose backbone is the teacher",
        {"teacher": Place(_in("backbone")), "student": Place(_in("student_backbone"))},
        "teacher",
        has=(_in("student_backbone"),),
    ),
    "solo-learn": Family(
        "solo-learn (Lightning)",
        {"online": Place(_in("backbone")), "ema": Place(_in("momentum_backbone"))},
        "online",
        has=((*_in("classifier"), *(f"state_dict.{n}" for n in ("projector", "momentum_backbone"))),),
        lacks=("meta", "model.projector", *_in("encoder_q", "online_classifier", "projection_head")),
    ),
    "lightning-bolts": Family("lightning-bolts MoCo v2", MOCO, "query", has=((LIGHTNING,),)),
    "torchvision": Family(
        "torchvision ResNet, ResNeXt, wide ResNet, with or without fc; this project's supervised runs",
        TORCHVISION,
        "",
        lacks=_in("prototypes", "projection_head"),
        note="",
    ),
    "timm": Family(
        "timm resnet*, resnext*, wide_resnet* of torchvision's topology", TORCHVISION, "", same_keys_as="torchvision"
    ),
    "huggingface": Family(
        "transformers ResNetModel and ResNetForImageClassification",
        {"encoder": Place(("", "resnet", "model", "state_dict"), "huggingface")},
    ),
    "ssl-transfer": Family("ssl-transfer prepared models", {"encoder": Place(FLAT)}, same_keys_as="torchvision"),
    "obow": Family(
        "obow training checkpoint",
        {
            "student": Place(("network.feature_extractor._feature_blocks",), "block list"),
            "teacher": Place(("network.feature_extractor_teacher._feature_blocks",), "block list"),
        },
        "student",
    ),
    "obow-caffe2": Family(
        "obow's Caffe2 file",
        {"encoder": Place(("blobs", "", "model"), "caffe2 blobs")},
        has=(("blobs.res_conv1_bn_s", "res_conv1_bn_s", "model.res_conv1_bn_s"),),
        preprocessing=IMAGENET_BGR,
        note="read as written by obow's own command (--rgb2bgr True); without that flag pass --preprocessing imagenet",
    ),
    "msra": Family(
        "Caffe2 models of Detectron2's zoo: MSRA R-50, R-101, FAIR X-101-32x8d",
        {"encoder": Place(("", "model", "blobs"), "caffe2")},
        has=(("res_conv1_bn_gamma", "model.res_conv1_bn_gamma", "blobs.res_conv1_bn_gamma"),),
        preprocessing=MSRA_BGR,
        preprocessing_grouped=IMAGENET_BGR,
    ),
    "detectron2": Family(
        "Detectron2 backbone (.pkl or .pth)", {"encoder": Place(("model", "", "state_dict"), "detectron2")}
    ),
    "detectron2-detector": Family(
        "fine-tuned Detectron2 detector (model_final.pth; FPN, DC5 or C4)",
        {"encoder": Place(_in(*_DETECTOR), "detectron2", layer4_roots=_in("roi_heads"))},
        note="box, mask and proposal weights of the detector are left out",
    ),
    **TRANSFORMER_FAMILIES,
}


def list_families() -> str:
    """The table as text, one family per line: name, title, encoders (the default first) and special cases."""
    lines = []
    for name, row in TABLE.items():
        encoders = sorted(row.encoders, key=lambda e: e != (row.default or "encoder"))
        extra = f"  [same keys as {row.same_keys_as}: select with --family {name}]" if row.same_keys_as else ""
        lines.append(f"{name:20} {row.title}; encoders: {', '.join(encoders)}{extra}")
        lines[-1] += "  [REFUSED]" if row.refused else ""
    return "\n".join(lines)
