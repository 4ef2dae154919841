"""Reports what is in a prepared dataset and how far its labels can be trusted, in `report.md` next to its files."""
