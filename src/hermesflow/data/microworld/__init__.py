"""The flat-shapes world: scenes, captions, questions, and the judge that reads its pixels."""
