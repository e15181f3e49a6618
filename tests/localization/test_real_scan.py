"""The projection of a real scan, where one is at hand; none is kept here.

``LORANK_CT`` names a CT of the abdomen with spine and pelvis, such as ``tests/reference_files/
example_ct.nii.gz`` of wasserth/TotalSegmentator (Apache-2.0). Only the projection is looked at.
"""

import os

import numpy as np
import pytest

from lorank.localization import View, project, read_volume

pytest.importorskip("nibabel", reason="NIfTI needs the extra 'scan'")


@pytest.fixture(scope="module")
def scan():
    place = os.environ.get("LORANK_CT")
    if not place:
        pytest.skip("LORANK_CT names no scan")
    return read_volume(place)


def test_the_head_is_above_and_the_pelvis_below(scan):
    image = project(scan, View(column_mm=3.0, columns=112)).image
    assert len(image) == int((scan.count - 1) * scan.height + 1e-6) + 1
    bone = image > 0.05
    wide = bone.sum(1)
    third = len(image) // 3
    assert wide[-third:].mean() > 1.3 * wide[:third].mean()  # iliac bones beside the sacrum
    spine = image[third : 2 * third].mean(0)
    assert abs(int(spine.argmax()) - 55.5) < 15  # the spine is in the middle: within 45 mm


def test_the_spine_lies_behind(scan):
    image = project(scan, View(plane="lateral", column_mm=3.0, columns=112)).image
    third = len(image) // 3
    profile = image[third : 2 * third].mean(0)
    assert (profile * np.arange(112)).sum() / profile.sum() > 55.5  # the first column is the front
