"""Built-in names of data sets and where their files lie below the data root, as in Detectron2."""

from __future__ import annotations

# name -> (annotation file, image folder) below the data root
COCO_SETS = {
    "coco_2014_train": ("coco/annotations/instances_train2014.json", "coco/train2014"),
    "coco_2014_val": ("coco/annotations/instances_val2014.json", "coco/val2014"),
    "coco_2014_minival": ("coco/annotations/instances_minival2014.json", "coco/val2014"),
    "coco_2014_valminusminival": ("coco/annotations/instances_valminusminival2014.json", "coco/val2014"),
    "coco_2017_train": ("coco/annotations/instances_train2017.json", "coco/train2017"),
    "coco_2017_val": ("coco/annotations/instances_val2017.json", "coco/val2017"),
    "coco_2017_test": ("coco/annotations/image_info_test2017.json", "coco/test2017"),
    "coco_2017_test-dev": ("coco/annotations/image_info_test-dev2017.json", "coco/test2017"),
    "coco_2017_val_100": ("coco/annotations/instances_val2017_100.json", "coco/val2017"),
    "keypoints_coco_2017_train": ("coco/annotations/person_keypoints_train2017.json", "coco/train2017"),
    "keypoints_coco_2017_val": ("coco/annotations/person_keypoints_val2017.json", "coco/val2017"),
    "keypoints_coco_2017_val_100": ("coco/annotations/person_keypoints_val2017_100.json", "coco/val2017"),
}
LVIS_SETS = {
    "lvis_v0.5_train": ("lvis/lvis_v0.5_train.json", "coco"),
    "lvis_v0.5_val": ("lvis/lvis_v0.5_val.json", "coco"),
    "lvis_v0.5_val_rand_100": ("lvis/lvis_v0.5_val_rand_100.json", "coco"),
    "lvis_v1_train": ("lvis/lvis_v1_train.json", "coco"),
    "lvis_v1_val": ("lvis/lvis_v1_val.json", "coco"),
}
# name -> (folder of the annotations, folder of the images), each with a folder for every city
CITYSCAPES_SETS = {
    f"cityscapes_fine_instance_seg_{split}": (f"cityscapes/gtFine/{split}", f"cityscapes/leftImg8bit/{split}")
    for split in ("train", "val", "test")
}
# name -> (year, split)
VOC_SETS = {
    f"voc_{year}_{split}": (year, split) for year in (2007, 2012) for split in ("trainval", "train", "val", "test")
}
FILE_SETS = {"coco": COCO_SETS, "lvis": LVIS_SETS, "cityscapes": CITYSCAPES_SETS}
NAMES = (*COCO_SETS, *VOC_SETS, *LVIS_SETS, *CITYSCAPES_SETS)
KINDS = (*FILE_SETS, "voc")  # also the prefixes of own data sets

OWN_FORMS = {  # kind -> how an own data set of it is named
    "coco": "coco:ANNOTATIONS.json:IMAGE_DIR, coco:DIR (images and their json file)",
    "voc": "voc:DEVKIT:YEAR:SPLIT (four-digit year), voc:DIR or voc:DIR:SPLIT (Annotations and JPEGImages in DIR)",
    "lvis": "lvis:ANNOTATIONS.json:ROOT",
    "cityscapes": "cityscapes:GTFINE_DIR:LEFTIMG8BIT_DIR",
}
FORMS = f"{OWN_FORMS['coco']}, {OWN_FORMS['voc']}, {OWN_FORMS['lvis']} or {OWN_FORMS['cityscapes']}"
LAYOUTS = {
    "coco": "coco/annotations/instances_{train,val}2017.json and coco/{train,val}2017/*.jpg",
    "voc": "VOC{2007,2012}/{Annotations/*.xml, ImageSets/Main/SPLIT.txt, JPEGImages/*.jpg}",
    "lvis": "lvis/lvis_v0.5_{train,val}.json and the images in coco/{train,val}2017/*.jpg",
    "cityscapes": "cityscapes/gtFine/{train,val}/CITY/*_gtFine_{polygons.json,instanceIds.png} and "
    "cityscapes/leftImg8bit/{train,val}/CITY/*_leftImg8bit.png",
}
