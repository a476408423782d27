"""What every package rests on: files, provenance, the hub, random streams, progress, errors."""
