"""Displays of what was learned, with the interface of scikit-learn's."""
