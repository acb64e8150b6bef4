"""napari plugin of medpanoptic: open studies and results, segment, correct, save. Research use only."""
