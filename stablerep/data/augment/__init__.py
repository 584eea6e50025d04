"""Random views of images: their parameters, and applying them to a whole batch."""
