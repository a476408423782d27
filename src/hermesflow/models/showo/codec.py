"""Show-o's images: codes of the MAGVITv2 image tokenizer, read and generated alike."""

from __future__ import annotations

from hermesflow.models.codecs import CodesCodec
from hermesflow.models.showo import FAMILY
from hermesflow.models.showo.magvit import MagVitV2


class ShowOCodec(CodesCodec):
    """Implements `backbone.ImageCodec`."""

    family = FAMILY
    network_class = MagVitV2


meta_codec, load_codec = ShowOCodec.meta, ShowOCodec.load
