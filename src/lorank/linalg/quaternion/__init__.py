"""Quaternion matrices as float arrays ``(..., m, n, 4)``; `lorank.linalg` has the public names."""
