"""Pair-DPO, pre-training, and what a job on several processes needs."""
