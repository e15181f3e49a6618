"""Convolutions as operators: their singular values, their norm; `lorank.linalg` has the names."""
