"""Fuzzing of the DICOM gate: series are mutated, scanned and read, and what was accepted is held against an oracle.

elements    a file as a tree of elements that can be written back however wrong it is
corpus      the series that are mutated
edits       values, series, structures, voxels, raw, archives: the mutations
case        one case: a series, some mutations, a number; all that is needed to make it again
oracle      what must hold of whatever the gate answers, computed without the gate's code
trial       runs one case within this process
harness     runs many in worker processes that may crash or hang
"""
