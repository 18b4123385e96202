"""Every study on real pretrained models: what runs, what of it is published, and the page that tells it."""
