"""Emu3 on transformers' Emu3ForConditionalGeneration: one stream of texts and images, both written token by token."""

FAMILY = "emu3"
