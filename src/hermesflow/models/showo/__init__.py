"""Show-o on transformers' Phi, its MAGVITv2 image tokenizer, and MaskGIT generation."""

FAMILY = "showo"
