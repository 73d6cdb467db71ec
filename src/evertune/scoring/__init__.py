"""How answers are scored (`answers`) and how a whole stream is (`metrics`)."""
