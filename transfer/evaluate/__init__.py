"""Detections and a data set in, numbers out: one implementation for every engine."""
