"""Model files: fitted encoders without code."""
