"""The rules of the DICOM gate: every finding that this room can give, in one table.

A rule of severity `error` keeps a volume out of training, a `warning` only tells. The table holds each rule's
text, so that the documentation can be generated from it and a program can rely on the ids. Messages carry counts
and measures, never a path, a UID or a name.
"""

from fedsite.dicom.rules import files, geometry, identity, labels, pixels
from fedsite.dicom.rules.rule import Rule

RULES: dict[str, Rule] = {
    rule.id: rule
    for group in (
        *(files.FILES, files.OBJECTS, identity.IDENTITY, identity.DEIDENTIFICATION),
        *(pixels.PIXELS, geometry.GEOMETRY, labels.LABELS),
    )
    for rule in group
}
