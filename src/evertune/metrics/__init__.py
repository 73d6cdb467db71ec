"""How answers are scored (`rules`) and how a whole stream is (`metrics`)."""
