"""Measures models against what people say: entities that they marked, pairs that they scored."""
