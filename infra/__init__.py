"""The operator's side: the resources, the layer, the package, and what ties them to Chalice's configuration."""
