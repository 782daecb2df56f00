"""Evaluation outside runs."""
