"""Emu3's images: codes of its image tokenizer, read and generated alike."""

from __future__ import annotations

from hermesflow.models.codecs import CodesCodec
from hermesflow.models.emu3 import FAMILY
from hermesflow.models.emu3.vq import ImageVQ


class Emu3Codec(CodesCodec):
    """Implements `backbone.ImageCodec`."""

    family = FAMILY
    network_class = ImageVQ


meta_codec, load_codec = Emu3Codec.meta, Emu3Codec.load
