"""Data sets: the catalog, readers of VOC / COCO / LVIS, the mapper, samplers and loaders."""
