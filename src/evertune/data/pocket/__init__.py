"""The world of the `pocket` streams: small scenes of real artwork and real fonts, and what can be asked about them."""
