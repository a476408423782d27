"""Backbones: Show-o on transformers' Phi, and the MAGVITv2 image tokenizer."""
