"""Waveform in, image in [0, 1] out: the paper's four representations and the store that holds them."""

REPRESENTATIONS = ("stft", "dwt", "stft_tonnetz", "dwt_tonnetz")
