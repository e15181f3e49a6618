"""The sections of docs/results/README.md: one file a subject, each with its SECTIONS."""
