#!/bin/sh
# One study in, its DICOM SEG and SR out, in OUTPUT/input/.
set -eu
exec medpanoptic segment "$HOLOSCAN_INPUT_PATH" -o "$HOLOSCAN_OUTPUT_PATH" --model "$HOLOSCAN_MODEL_PATH" \
    --format dicom-seg,dicom-sr
