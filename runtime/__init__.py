"""What every other package builds on: files, seeds, signals, processes, logs. Imports nothing else of the project."""
