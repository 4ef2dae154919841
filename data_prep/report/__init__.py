"""What is in a prepared dataset, and how far its labels can be trusted: `report.md` beside its files."""
