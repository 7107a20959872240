"""The embedded data set: objects drawn by code, written in the layouts that real data sets use."""
