"""Hospitals that do not exist: real anatomy, real lesion shapes, simulated scanners, correct DICOM.

anatomy (a head of tissue fractions) -> lesions (where the stroke is) -> imaging (what a scanner sees) -> export (DICOM)
"""
