"""Convolutions as operators: spectra, bounds, penalties."""

from sections.markdown import Section

SECTIONS: list[Section] = []
