"""Splits: which pixels train and which test."""
