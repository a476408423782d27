"""Homologous (image, caption) pairs: the micro world and the schema every source fills."""
