"""Bayesian models of a matrix."""

from sections.markdown import Section

SECTIONS: list[Section] = []
