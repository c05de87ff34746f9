"""Training of one fold: plain (``fit``) and adversarial (Eq. 13)."""
