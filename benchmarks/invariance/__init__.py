"""Parts of benchmarks/classwise.py: networks, arms, training, ranks, choice of settings, tables."""
