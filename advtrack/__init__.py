"""advtrack: how robust is an audio classifier, and what does robustness cost?"""

__version__ = "0.1.0"
