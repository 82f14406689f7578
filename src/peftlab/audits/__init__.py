"""Audits: what a fine-tune, its weights or the labels behind it tell. One file or folder each."""
