"""What two or more of the numbered scripts need; docs/architecture.md is the map."""
