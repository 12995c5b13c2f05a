"""Whole models on disk, in every layout: folders of diffusers, original single files, four-part files."""
