"""Fitted encoders as files."""
