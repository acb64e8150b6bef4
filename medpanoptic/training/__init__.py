"""Training: read a layout, prepare cases, draw patches, run the loop."""
