"""Arithmetic that families share: what decoders, image tokenizers and their batches cost."""
