"""The paper's tables and figures from evaluated checkpoints."""
