"""HermesFlow: homologous preference pairs and Pair-DPO for unified multimodal models (arXiv 2502.12148)."""

__version__ = "0.1.0"
