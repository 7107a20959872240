"""The ground floor: files, seeds, signals, processes, logs. It imports nothing else of this project."""
