"""Judges from outside for real images: an endpoint or a local vision-language model, and the gap by their verdicts."""
