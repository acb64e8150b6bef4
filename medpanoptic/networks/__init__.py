"""The networks: tensors in, a Prediction out. Imports torch and monai only, nothing else of this package."""
