import numpy as np
import pytest

from advtrack.representations.tonnetz import RATE, tonnetz


def chord(frequencies):
    time = np.arange(3 * RATE) / RATE
    return sum(np.sin(2 * np.pi * f * time) for f in frequencies).astype(np.float32) / 3


def test_c_major_lies_at_its_coordinates():
    # C, E and G weigh a third each and lie, n semitones above C, at 210 n degrees on the circle of fifths, at 270 n
    # on that of minor thirds (both of radius 1) and at 120 n on that of major thirds (radius 1/2):
    #   fifths        0, 120,  30 degrees    x = (0 + 0.866 + 0.5) / 3    = 0.455    y = (1 - 0.5 + 0.866) / 3 = 0.455
    #   minor thirds  0,   0,  90 degrees    x = (0 + 0 + 1) / 3          = 0.333    y = (1 + 1 + 0) / 3       = 0.667
    #   major thirds  0, 120, 120 degrees    x = (0 + 0.866 + 0.866) / 6  = 0.289    y = (1 - 0.5 - 0.5) / 6   = 0
    by_hand = np.array([0.455, 0.455, 0.333, 0.667, 0.289, 0.0])
    centroid = tonnetz(chord([261.63, 329.63, 392.00]))[:, 20:-20].mean(axis=1)
    np.testing.assert_allclose(centroid, (by_hand + 1) / 2, atol=0.04)


def test_an_octave_higher_is_the_same_chord():
    low, high = (
        tonnetz(chord(octave * np.array([261.63, 329.63, 392.00])))[:, 20:-20].mean(axis=1) for octave in (1, 2)
    )
    np.testing.assert_allclose(low, high, atol=0.03)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("level", [0, 0.2])
def test_what_has_no_pitch_is_no_cause_for_a_warning(level):
    centroids = tonnetz(np.full(5 * RATE, level, np.float32))
    assert centroids.shape == (6, 1 + 5 * RATE // 512)
    assert (centroids == 0.5).all() or level  # silence lies in the middle
