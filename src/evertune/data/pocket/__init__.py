"""The data of the `pocket` streams: small scenes drawn with real artwork and fonts, and questions about them."""
