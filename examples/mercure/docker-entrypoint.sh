#!/bin/sh
# mercure gives a study (or series) in MERCURE_IN_DIR and sends on what lies in MERCURE_OUT_DIR.
set -eu
# names of incoming files begin with UIDs: neutral names keep them out of messages
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/study"
number=0
for file in "$MERCURE_IN_DIR"/*.dcm; do
    number=$((number + 1))
    cp "$file" "$work/study/$number.dcm"
done
medpanoptic segment "$work/study" -o "$work/out" --model "$MEDPANOPTIC_MODEL" --format dicom-seg,dicom-sr
cp "$work"/out/study/*.dcm "$MERCURE_OUT_DIR"
