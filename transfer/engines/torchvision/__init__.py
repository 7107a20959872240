"""The embedded engine: Detectron2's R-CNN family, bit for bit, on torch and torchvision operators."""
