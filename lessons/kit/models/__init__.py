"""What several systems are made of: the backbone, batches of images."""
