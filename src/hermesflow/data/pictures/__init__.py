"""The pictures world: scenes of real emoji pictures (Twemoji, CC BY 4.0), and the judge that reads their pixels."""
