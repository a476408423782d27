"""Released models that grade images, and what they are compared with."""
