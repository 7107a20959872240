"""The embedded engine: Detectron2's R-CNN family on torch and torchvision operators, bit for bit, without Detectron2."""
