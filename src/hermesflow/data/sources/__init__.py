"""Pairs of real images: JourneyDB, and a folder of the user's."""
