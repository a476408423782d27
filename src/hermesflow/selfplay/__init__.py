"""Candidates of a checkpoint, their scores, and the preference pairs made of them."""
