"""Janus on transformers' JanusForConditionalGeneration: reads pixels through SigLIP, writes VQ codes one by one."""

FAMILY = "janus"
