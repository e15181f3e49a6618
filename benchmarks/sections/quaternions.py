"""Quaternion matrices and what they are used for."""

from sections.markdown import Section

SECTIONS: list[Section] = []
