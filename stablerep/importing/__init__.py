"""Images of one's own as a dataset: folders, WebDataset tars, data sets of torchvision."""
