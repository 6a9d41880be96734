"""The rules of preparation: every finding that this room can give, in one table (as `dicom.rules` has for its own).

A rule of severity `error` leaves the study out, a `warning` only tells. Messages carry counts and measures, never a
path, an identifier or a name.
"""

from fedsite.dicom.checks import Finding, Rule

_SAVE_MASK = "Save the mask with whole numbers out of {known}."

# Which images and masks make a study.
_SELECTION = (
    Rule(
        "channel-missing",
        "error",
        "The study holds no usable image of this kind: {kind}.",
        "Export that series too; fedsite inspect says what was found and what was refused.",
    ),
    Rule(
        "several-candidates",
        "error",
        "{count} images of the study are of this kind: {kind} ({images}).",
        "Leave one of them in the export, or name the mask after the SeriesInstanceUID of the right one.",
    ),
    Rule(
        "channel-left-out",
        "warning",
        "The {channel} image, which is optional, is there but not used: {reason}",
        "Nothing to do where it does not matter: zeros stand for it. fedsite inspect says more about the images.",
    ),
    Rule(
        "trace-missing",
        "error",
        "Of the diffusion images only single directions are there, not their mean.",
        "Export the trace (isotropic) images too, or at least three directions of one b-value with their directions.",
    ),
    Rule(
        "trace-computed",
        "warning",
        "No trace was exported; it was computed as the geometric mean of {count} directions.",
        "Nothing to do. Export the trace (isotropic) images too if the scanner made them.",
    ),
    Rule(
        "directionality-unknown",
        "warning",
        "Nothing says whether the diffusion image is the mean over directions; it was taken as that.",
        "Look at the picture. Keep the diffusion attributes when de-identifying.",
    ),
    Rule(
        "wrong-body-part",
        "error",
        "The images say that they show something else than a head ({part}).",
        "Leave the series out; or correct BodyPartExamined (0018,0015) if it is a head all the same.",
    ),
    Rule(
        "incomplete-head",
        "warning",
        "The image reaches over {extent:.0f} mm of the head only.",
        "See in the picture whether what the task is about is all there.",
    ),
    Rule(
        "lossy-forbidden",
        "error",
        "The images were compressed with loss, which the task does not take.",
        "Export from the archive's original, or leave the series out.",
    ),
    Rule(
        "weighting-unknown",
        "error",
        "Nothing says whether the image is T1, T2 or FLAIR: its echo and repetition times are missing.",
        "Keep echo, repetition and inversion times when de-identifying; or give the images as NIfTI in BIDS.",
    ),
    Rule(
        "slices-too-thick",
        "error",
        "The slices lie {thickness:.1f} mm apart; the task takes up to {limit:g} mm.",
        "Export a reconstruction with thinner slices.",
    ),
    Rule(
        "not-axial",
        "error",
        "The slices are not axial, and {thickness:.1f} mm thick: what lies between them is lost in the other planes.",
        "Export the axial reconstruction, or thin slices.",
    ),
    Rule(
        "b-value-assumed",
        "warning",
        "Nothing says the image's b-value; it was taken to be within {low:g} to {high:g} s/mm2.",
        "Put DiffusionBValue into the JSON sidecar.",
    ),
    Rule(
        "b-value-out-of-range",
        "error",
        "The image's b-value is {b_value:g} s/mm2; the task takes {low:g} to {high:g}.",
        "Give the image of such a b-value.",
    ),
    Rule(
        "modality-wrong",
        "error",
        "The sidecar says another modality than {modality}.",
        "See that the image is of the kind that the task asks for.",
    ),
)

# The image itself.
_IMAGE = (
    Rule("image-unreadable", "error", "The image cannot be read: {reason}", "Export it again, or leave it out."),
    Rule(
        "image-not-3d",
        "error",
        "The image has the size {sizes}: it is not one volume.",
        "Give one volume a file: of a diffusion series the trace image.",
    ),
    Rule(
        "geometry-missing",
        "error",
        "The header says nothing usable about where the image lies.",
        "Convert the image again from DICOM (qform or sform must be set).",
    ),
    Rule(
        "image-not-finite",
        "error",
        "The image holds values that are no numbers (NaN or infinity).",
        "Export the series again; if it was computed, mend the computation.",
    ),
    Rule(
        "image-constant",
        "error",
        "Every voxel of the image has the same value.",
        "Export the series again: its pixels are lost.",
    ),
    Rule(
        "channel-on-other-grid",
        "error",
        "It is not known where the images of the study lie to each other: {reason}.",
        "Export them from one examination, in one frame of reference, or resampled onto one grid.",
    ),
    Rule(
        "channel-covers-partly",
        "warning",
        "The {channel} image does not show all of the head or the lesion: {share:.0%} of the head is missing.",
        "Look at the picture; what is missing is filled with the image's lowest value.",
    ),
    Rule(
        "channel-shifted",
        "warning",
        "The {channel} image lies {distance:.1f} mm off the first image of the study: the patient moved in between.",
        "Look at the picture. Register the images before the export, or leave the study out.",
    ),
    Rule(
        "channel-in-other-state",
        "error",
        "The {channel} image is {state}, the first image of the study is {other}.",
        "Export all images of the study with the skull, or all without.",
    ),
    Rule(
        "input-state-doubtful",
        "warning",
        "Whether the skull was removed is not clear from the image; it was taken as {state}.",
        "Look at the picture.",
    ),
    Rule(
        "input-state-other",
        "error",
        "The image is {state}; this set is {kept}.",
        "Export the study as the others are, or prepare it into a folder of its own.",
    ),
    Rule(
        "worker-lost",
        "error",
        "Every worker of the Dask cluster that prepared the study ended while it did.",
        "It is tried again by the next run: see to the workers' memory (dask worker --memory-limit) and logs.",
    ),
    Rule(
        "case-not-storable",
        "error",
        "The preprocessed image holds values that the case store cannot hold.",
        "Look at the image's intensities; if they are ordinary, report it.",
    ),
)

# The mask.
_LABEL = (
    Rule(
        "label-missing",
        "error",
        "No mask belongs to the image.",
        "Give the masks with --labels: DICOM label objects that refer to the image, or files named after its "
        "SeriesInstanceUID, StudyInstanceUID, AccessionNumber or PatientID (in BIDS: after its subject and session).",
    ),
    Rule("label-ambiguous", "error", "{count} masks belong to one image: {masks}.", "Keep the one that is meant."),
    Rule(
        "label-contested",
        "error",
        "The mask's name fits {count} images: {images}.",
        "Name the mask after the SeriesInstanceUID of the one that it was drawn on.",
    ),
    Rule(
        "label-unpaired",
        "warning",
        "{count} mask(s) belong to no image that was found.",
        "See that they refer to the images or are named after them (in BIDS: after subject and session), and that "
        "these were exported.",
    ),
    Rule(
        "label-object-damaged",
        "error",
        "{count} DICOM label object(s) are damaged.",
        "Export them again; the studies that they belong to lack their masks.",
    ),
    Rule(
        "label-object-unknown",
        "warning",
        "{count} DICOM label object(s) are of a kind that marks no voxels (surfaces, height maps).",
        "Export segmentations or structure sets if they are the masks.",
    ),
    Rule("label-unreadable", "error", "The mask cannot be read: {reason}", "Save it again."),
    Rule("label-not-finite", "error", "The mask holds values that are no numbers (NaN or infinity).", _SAVE_MASK),
    Rule("label-values-unknown", "error", "The mask holds values that the task has no name for: {values}.", _SAVE_MASK),
    Rule(
        "label-stored-as-255",
        "error",
        "The mask holds 0 and 255, which is how drawing programs store a binary mask.",
        "Save it as 0 and 1.",
    ),
    Rule(
        "label-empty",
        "warning",
        "The mask marks no voxel: the case is kept as one without a lesion.",
        "If there is a lesion, draw it and prepare again.",
    ),
    Rule(
        "label-lost",
        "warning",
        "The lesion is so small that no prepared voxel holds it: the case is kept as one without a lesion.",
        "Set a finer preparation.spacing_mm if such lesions matter.",
    ),
    Rule(
        "label-coarse",
        "warning",
        "The prepared grid holds the lesion only coarsely: back on the image's grid, Dice {ceiling:.2f} at best.",
        "Set a finer preparation.spacing_mm if such lesions matter.",
    ),
    Rule(
        "label-off-head",
        "error",
        "Nothing that the mask marks lies in the head.",
        "See that the mask belongs to this image, and that it was not flipped or shifted.",
    ),
    Rule(
        "label-partly-off-head",
        "warning",
        "{share:.0%} of what the mask marks lies outside of the head.",
        "Look at the picture: the mask may belong to another image, or be flipped or shifted.",
    ),
    Rule(
        "lesion-tiny",
        "warning",
        "The mask marks {count} voxel(s) only.",
        "Look at the picture: it may be a slip of the pen.",
    ),
    Rule(
        "lesion-outlying",
        "warning",
        "The mask marks {share:.0%} of the head.",
        "Look at the picture: it may mark the brain, or all that is not lesion.",
    ),
)

# Who is in the picture: the promise about privacy counts patients.
_IDENTITY = (
    Rule(
        "patient-unit-doubtful",
        "error",
        "The study cannot be counted as one patient's. {reason}",
        "Export with a PatientID (a pseudonym will do) that is one for each person: the privacy promise counts by it.",
    ),
    Rule(
        "same-patient-in-both-splits",
        "error",
        "One of the studies with this image would be trained on and another ({studies}) held out.",
        "Export the image under one PatientID.",
    ),
    Rule(
        "direct-identifiers",
        "error",
        "The image's sidecar holds direct identifiers ({what}); this site takes de-identified input only.",
        "Convert without them (dcm2niix -ba y), or set policy.require_deidentified_input to false.",
    ),
)

# The prepared set.
_SET = (
    Rule(
        "patient-withdrawn",
        "error",
        "The patient was withdrawn from this site's data.",
        "Nothing to do; fedsite audit show says when.",
    ),
    Rule(
        "no-training-patient",
        "warning",
        "Every patient fell to validation: there is nothing to train on.",
        "Prepare more patients.",
    ),
    Rule(
        "no-validation-patient",
        "warning",
        "No patient fell to validation: the global model cannot be measured here.",
        "Prepare more patients; about one in {one_in} is held out.",
    ),
)

# A study that a model is to segment.
_PREDICTION = (
    Rule(
        "input-state-unlike-model",
        "error",
        "The image is {state}; the model has learned from {wanted} images.",
        "Give the images as the model's plan says: with the skull, or without.",
    ),
    Rule(
        "segmentation-unreferenced",
        "error",
        "A DICOM segmentation cannot be written for the image: {reason}.",
        "Ask for NIfTI instead: --nifti.",
    ),
)

_GROUPS = (_SELECTION, _IMAGE, _LABEL, _IDENTITY, _SET, _PREDICTION)
RULES: dict[str, Rule] = {rule.id: rule for group in _GROUPS for rule in group}


def finding(rule: str, where: str = "", **facts: object) -> Finding:
    """The finding of a rule (named by its id), with the facts that its message and mend state filled in."""
    known = RULES[rule]
    return Finding(known.id, known.severity, known.message.format(**facts), known.mend.format(**facts), where)
