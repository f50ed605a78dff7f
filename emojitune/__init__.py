"""What two or more of the numbered scripts need. Nothing here parses arguments; the scripts tell the story."""
